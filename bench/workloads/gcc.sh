# An optimizing compilation; the object file is what is hashed.
gcc -O2 -c /bench/source.c -o /tmp/source.o && cat /tmp/source.o
