# A bit of what Perl programs do: hashes, regular expressions, sorting, string building.
use strict;
use warnings;

my ($x, %count, @lines) = (12345);
for my $i (1 .. 40000) {
    $x = ($x * 1103515245 + 12345) & 0x7fffffff;
    my $word = sprintf("w%x", $x % 5000);
    $count{$word}++;
    push @lines, "$word,$i," . ($x & 1023) if $i % 4 == 0;
}
my @top = (sort { $count{$b} <=> $count{$a} || $a cmp $b } keys %count)[0 .. 4];
print join(" ", map { "$_=$count{$_}" } @top), "\n";
my ($sum, $hits) = (0, 0);
for my $line (@lines) {
    my ($word, $number, $value) = split /,/, $line;
    $sum += $number * $value;
    $hits++ if $line =~ /^w(\d)[a-f]*\1,/;
    (my $copy = $line) =~ s/(\d+)/<$1>/g;
    $sum += length $copy;
}
print "$sum $hits\n";
sub fib { my $n = shift; return $n < 2 ? $n : fib($n - 1) + fib($n - 2) }
print fib(19), "\n";
