"""A bit of what Python programs do: objects, dictionaries, strings, sorting, big integers, generators."""
import collections
import re


class Particle:
    def __init__(self, x, v):
        self.x = x
        self.v = v

    def move(self, dt):
        self.x += self.v * dt
        if self.x < 0 or self.x > 100:
            self.v = -self.v
        return self.x


def primes(limit):
    sieve = bytearray([1]) * (limit + 1)
    for i in range(2, int(limit**0.5) + 1):
        if sieve[i]:
            sieve[i * i::i] = bytes(len(range(i * i, limit + 1, i)))
    return [i for i in range(2, limit + 1) if sieve[i]]


def words(count):
    x = 12345
    for _ in range(count):
        x = (x * 1103515245 + 12345) & 0x7fffffff
        yield "w%x" % (x % 5000)


particles = [Particle(i * 0.5, (i % 7) - 3) for i in range(200)]
for _ in range(60):
    total = sum(p.move(0.25) for p in particles)
print("%.6f" % total)
print(len(primes(60000)))
counts = collections.Counter(words(40000))
print(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:5])
text = " ".join(words(8000))
print(len(re.findall(r"w([0-9a-f])\1", text)), len(re.sub(r"\d+", "#", text)))
a, b = 0, 1
for _ in range(4000):
    a, b = b, a + b
print(str(a)[:20])
grid = [[(i * j) % 17 for j in range(80)] for i in range(80)]
print(sum(sum(row) for row in zip(*grid)))
