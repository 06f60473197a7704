# What shell scripts do with programs: subshells, substitutions, pipelines.
i=0
while [ $i -lt 20 ]; do
  i=$((i + 1))
  word=$(echo "line $i" | tr a-z A-Z)
  n=$(printf '%s\n' "$word" x y | wc -l)
  [ "$n" = 3 ] || echo "wrong $n"
done
echo "$word"
