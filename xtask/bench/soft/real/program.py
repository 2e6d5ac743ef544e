# What programs in Python do all day: calls, loops, lists, dictionaries, strings, exceptions. It knows its answers.


def queens(size, row=0, columns=0, falling=0, rising=0):
    """In how many ways as many queens as the board has rows leave each other alone."""
    if row == size:
        return 1
    free = ~(columns | falling | rising) & ((1 << size) - 1)
    ways = 0
    while free:
        place = free & -free
        free ^= place
        ways += queens(size, row + 1, columns | place, (falling | place) << 1, (rising | place) >> 1)
    return ways


class Machine:
    """A stack machine, as an object with methods in a dictionary."""

    def __init__(self):
        self.stack = []
        self.meanings = {"+": self.add, "*": self.multiply, "%": self.remainder}

    def add(self):
        self.stack.append(self.stack.pop() + self.stack.pop())

    def multiply(self):
        self.stack.append(self.stack.pop() * self.stack.pop())

    def remainder(self):
        divisor = self.stack.pop()
        self.stack.append(self.stack.pop() % divisor)

    def run(self, text):
        for word in text.split():
            try:
                self.stack.append(int(word))
            except ValueError:
                self.meanings[word]()
        return self.stack.pop()


def words(count):
    """How often each word comes, most frequent first."""
    state, counts = 1, {}
    for _ in range(count):
        state = state * 1103515245 + 12345 & 0x7FFFFFFF
        word = f"w{state >> 16 & 0xFF:02x}"
        counts[word] = counts.get(word, 0) + 1
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


assert queens(8) == 92
machine = Machine()
value = 1
for step in range(2000):
    value = machine.run(f"{value} 31 * {step} + 65521 %")
assert value == 2949, value
assert words(100000)[0] == ("wee", 443)
