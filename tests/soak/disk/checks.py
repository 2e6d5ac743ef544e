# What Python computes alike everywhere.
import bz2, decimal, hashlib, json, lzma, re, sys, zlib

n = int(sys.argv[1])
state = n + 12345


def random():
    global state
    state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
    return state >> 33


words = [format(random() % 5000, "x") for _ in range(20000 + 2000 * n)]
text = " ".join(words).encode()
print("words", len(set(words)), hashlib.sha256(text).hexdigest()[:16], hashlib.blake2b(text).hexdigest()[:16])
for pack in (zlib, bz2, lzma):
    packed = pack.compress(text)
    print(pack.__name__, len(packed), pack.decompress(packed) == text, zlib.crc32(text), zlib.adler32(text))
print("json", len(json.dumps(sorted(set(words)))), len(re.findall(rb"\b[a-f]\d+\b", text)))
decimal.getcontext().prec = 200 + 20 * n
print("decimal", str(decimal.Decimal(2 + n).sqrt())[-20:], pow(3, 5000 + n, 2**255 - 19))
total = 0.0
for i in range(1, 60000):
    total += (i % 7) / i
print("float", repr(total))
