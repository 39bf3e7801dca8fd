"""Pickles as lists of instructions, and pieces of programs to splice into them."""

import pickle
import pickletools
import struct

CANARY = "canary"
SHELL = f"mkdir {CANARY}"
# How the instructions that declare a size write it.
SIZED = dict.fromkeys(("BINUNICODE", "BINBYTES"), "<I") | dict.fromkeys(("BINSTRING", "LONG4"), "<i")
SIZED |= dict.fromkeys(("SHORT_BINUNICODE", "SHORT_BINBYTES", "SHORT_BINSTRING", "LONG1"), "<B")
SIZED |= dict.fromkeys(("BINUNICODE8", "BINBYTES8", "BYTEARRAY8", "FRAME"), "<Q")
HUGE = (2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**64 - 1)
EVAL = (f"__import__('os').mkdir({CANARY!r})",)
NESTED = (b"cos\nmkdir\n(V" + CANARY.encode() + b"\ntR.",)
# Callables that do something when they are called, with their arguments; each makes the canary.
DANGEROUS = (
    ("os", "system", (SHELL,)),
    ("posix", "system", (SHELL,)),
    ("os", "mkdir", (CANARY,)),
    ("builtins", "eval", EVAL),
    ("__builtin__", "eval", EVAL),
    ("builtins", "exec", (f"open({CANARY!r}, 'w').close()",)),
    ("builtins", "open", (CANARY, "w")),
    ("subprocess", "call", ((SHELL,), 0, None, None, None, None, None, True, True)),
    ("pathlib", "os.mkdir", (CANARY,)),
    ("numpy", "save", (CANARY, 1)),
    ("numpy", "memmap", (CANARY, "u1", "w+", 0, (1,))),
    ("numpy.core.multiarray", "os.mkdir", (CANARY,)),
    ("numpy._core.records", "os.mkdir", (CANARY,)),
    ("shutil", "copytree", (".", CANARY)),
    ("pickle", "loads", NESTED),
    ("_pickle", "loads", NESTED),
    ("runpy", "run_path", (CANARY,)),
    ("copyreg", "_reconstructor", (dict, dict, {})),
)
DTYPES = (
    *("O8", "O", "|O", "V8", "U9", "U999999", "S0", "U0", "S999999999", "f8", ">f8", "f2", "i8", "u1", "b1"),
    *("?", "c16", "g", "M8[s]", "f3", "f4,O", "(2,3)f4", "i4" * 40, "object", ""),
)
INTEGERS = (
    *(-1, 0, 1, 2, 127, 255, 2**16, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1, 2**64, -(2**63)),
    10**5000,
)
ARRAY = (
    b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
    b"(K\x01K\x01\x85cnumpy\ndtype\n(U\x02O8K\x00K\x01tR\x89]"
)
# Keep the top of the stack in the memo under a number of its own and drop it; push it again.
KEEP, GET = b"r\x00\xff\x00\x000", b"j\x00\xff\x00\x00"


def split(content):
    """The instructions of a whole pickle as (name, bytes), without frames."""
    operations = list(pickletools.genops(content))
    ends = [position for _, _, position in operations[1:]] + [len(content)]
    pieces = [(op.name, content[start:end]) for (op, _, start), end in zip(operations, ends, strict=True)]
    return [piece for piece in pieces if piece[0] != "FRAME"]


def join(pieces):
    return b"".join(piece for _, piece in pieces)


def constant(value):
    """A program that pushes a value, in instructions that every protocol has."""
    return pickle.dumps(value, 2)[2:-1]


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def call(module, attribute, arguments):
    """Return a program that pushes the result of a call."""
    return name(module, attribute) + b"(" + constants(arguments) + b"tR"


def by_text(module, attribute, arguments):
    """The same by STACK_GLOBAL."""
    names = b"".join(b"\x8c" + bytes([len(part)]) + part.encode() for part in (module, attribute))
    return names + b"\x93(" + constants(arguments) + b"tR"


def constants(values):
    return b"".join(map(constant, values))


# A call, the same with its name as text, by INST and by OBJ, and a class's __new__.
CALLS = (
    call,
    by_text,
    lambda module, attribute, given: b"(" + constants(given) + f"i{module}\n{attribute}\n".encode(),
    lambda module, attribute, given: b"(" + name(module, attribute) + constants(given) + b"o",
    lambda module, attribute, given: name(module, attribute) + b"(" + constants(given) + b"t\x81",
)


def nested_arrays(depth):
    """Arrays of objects within one another; freeing them recursively overflows the C stack."""
    return b"N" + (KEEP + ARRAY + GET + b"atb") * depth


def shared_lists(width, depth):
    """A list of a list of a list and so on, each many times in the next: width ** depth numbers."""
    return b"](" + b"K\x01" * width + b"e" + (KEEP + b"](" + GET * width + b"e") * depth


def sized(piece, operation, size):
    """The same instruction with another size before its data."""
    form = SIZED[operation]
    width = struct.calcsize(form)
    most = 2 ** (8 * width - form[1].islower()) - 1
    return piece[:1] + struct.pack(form, min(size, most)) + piece[1 + width :]
