# What shell scripts do without starting anything: arithmetic, tests, expansions, functions.
count() {
  local n=0 i=0
  while [ $i -lt "$1" ]; do
    i=$((i + 1))
    case $i in *7) n=$((n + i)) ;; *[05]) n=$((n - 1)) ;; esac
  done
  echo $n
}
count 25000
path=
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
  path=$path/dir$i.d
done
i=0
while [ $i -lt 1500 ]; do
  i=$((i + 1))
  tail=${path##*/}
  path=x$i/${path%/*}
  path=${path#x*/}/$tail
  [ "$tail" = "dir20.d" ] || echo "wrong $tail"
done
echo "$path"
