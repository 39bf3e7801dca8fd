"""Changes to valid pickles: of their bytes, their instructions and their contents.

Each takes a generator (`random.Random`) and a valid file.
"""

import pickle
import struct

from tests.fuzz import programs
from tests.fuzz.contents import change_content
from tests.fuzz.corpus import PROTOCOLS, contents, corpus

# Bytes


def flip_bits(generator, content):
    changed = bytearray(content)
    for _ in range(generator.randint(1, 8)):
        changed[generator.randrange(len(changed))] ^= 1 << generator.randrange(8)
    return bytes(changed)


def replace_bytes(generator, content):
    changed = bytearray(content)
    for _ in range(generator.randint(1, 4)):
        changed[generator.randrange(2, len(changed))] = generator.randrange(256)
    return bytes(changed)


def cut(generator, content):
    return content[: generator.randrange(len(content))]


def move_blocks(generator, content):
    """Remove, repeat or insert a block, or append the rest of another file."""
    start, end = sorted(generator.randrange(2, len(content)) for _ in range(2))
    other = generator.choice(list(corpus().values()))
    choices = (
        content[:start] + content[end:],
        content[:end] + content[start:],
        content[:start] + generator.randbytes(generator.randint(1, 40)) + content[start:],
        content[:start] + other[generator.randrange(2, len(other)) :],
    )
    return generator.choice(choices)


def write_number(generator, content):
    """Overwrite some bytes with a huge number, encoded like a size or a shape."""
    number = generator.choice((*programs.HUGE, 0, 1))
    form = generator.choice(("<I", "<Q", ">I", "<i"))
    data = struct.pack(form, number % 2 ** (31 if form == "<i" else 8 * struct.calcsize(form)))
    place = generator.randrange(2, len(content) - len(data))
    return content[:place] + data + content[place + len(data) :]


# Instructions: each changes the list of them in place


def declare_sizes(generator, pieces):
    """Declare more data than there are."""
    places = places_of(pieces, programs.SIZED)
    for place in generator.sample(places, min(len(places), generator.randint(1, 3))):
        operation, piece = pieces[place]
        pieces[place] = operation, programs.sized(piece, operation, generator.choice(programs.HUGE))
    frame = b"\x95" + struct.pack("<Q", generator.choice(programs.HUGE))
    if generator.random() < 0.2:
        insert(generator, pieces, frame)


def shuffle_instructions(generator, pieces):
    for _ in range(generator.randint(1, 3)):
        place, other = (generator.randrange(1, len(pieces)) for _ in range(2))
        action = generator.randrange(4)
        if action == 0:
            del pieces[place]
        elif action == 1:
            pieces.insert(other, pieces[place])
        elif action == 2:
            pieces[place], pieces[other] = pieces[other], pieces[place]
        else:
            pieces[place] = ("", generator.choice(OPCODES) + generator.randbytes(generator.choice((0, 1, 4))))


def change_arguments(generator, pieces):
    """Other dtypes, shapes and flags: any small number or short text may be one."""
    kinds = ("BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE", "SHORT_BINUNICODE", "NEWFALSE", "NONE")
    places = places_of(pieces, kinds)
    for place in generator.sample(places, generator.randint(1, 3)):
        values = ((), None, [], "<", ">", "text", b"bytes", 1.5, True, (3, 4), {}, {"a": 1})
        choices = [generator.choice(some) for some in (values, programs.DTYPES, programs.INTEGERS)]
        pieces[place] = "", programs.constant(generator.choice(choices))


def change_names(generator, pieces):
    """Another callable where the file has numpy's, in all places or in one, and the same arguments."""
    module, attribute, _ = generator.choice(programs.DANGEROUS)
    dump = programs.name(module, attribute)
    stacked = places_of(pieces, ["STACK_GLOBAL"])
    places = places_of(pieces, ["GLOBAL"]) + stacked
    if not places:
        insert(generator, pieces, dump)
        return
    for place in generator.sample(places, generator.randint(1, len(places))):
        pieces[place] = "", (b"00" if place in stacked else b"") + dump


def places_of(pieces, operations):
    return [place for place, (operation, _) in enumerate(pieces) if operation in operations]


def insert(generator, pieces, program):
    """Put a program between two instructions."""
    pieces.insert(generator.randrange(1, len(pieces)), ("", program))


def insert_payload(generator, pieces):
    """A call that would leave a canary: kept, dropped, or in the place of a value or key."""
    program = generator.choice(programs.CALLS)(*generator.choice(programs.DANGEROUS))
    place = generator.randrange(1, len(pieces))
    action = generator.randrange(3)
    pieces[place : place + (action == 2)] = [("", program + (b"0" if action == 0 else b""))]


def insert_foreign(generator, pieces):
    """Persistent ids, extensions, states for anything, arrays of another class."""
    choices = (
        *(b"Pos.system\n", b"U\x09os.systemQ", b"\x82" + bytes([generator.randint(1, 255)])),
        *(b"\x83" + generator.randbytes(2), b"\x84" + generator.randbytes(4)),
        *(b"}U\x01aK\x01sb", b"(NNNNtb", b"}b"),
        b"cnumpy._core.multiarray\n_reconstruct\n(ccollections\nOrderedDict\nK\x00\x85U\x01btR",
        b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\ndtype\nK\x00\x85U\x01btR",
        b"ctests.harness.data.test_unpickle\nTouchState\n)\x81}U\x04pathU\x06canarysb",
        *(b"\x97", b"\x98", programs.ARRAY[:-1] + b"U\x08AAAAAAAAtb"),
    )
    insert(generator, pieces, generator.choice(choices))


def nest_deeply(generator, pieces):
    depth = generator.choice((10, 100, 1000, 20_000))
    arrays, tuples = programs.nested_arrays(min(depth, 2000)), b"\x85" * depth
    choices = (
        *(b"]" * depth, b")" + tuples, b"]" + tuples, b"}" * depth, b"(" * depth, b"](" * depth),
        *(b"](" * depth + b"e" * depth, b")" + tuples + b"0", arrays, arrays + b"0"),
    )
    program = generator.choice(choices)
    if generator.random() < 0.5:
        insert(generator, pieces, program)
    else:
        pieces[generator.randrange(1, len(pieces))] = "", program


def bomb_memory(generator, pieces):
    """Insert a few bytes that expand to many: memos, calls that copy, nested lists, sets."""
    times = generator.choice((100, 3000, 30_000))
    many = generator.choice((times, 1_500_000))
    text = programs.constant("a" * 100_000)

    def calls(argument, function, more=b"\x85R"):
        return argument + programs.KEEP + b"(" + (function + programs.GET + more) * (times // 10) + b"1"

    choices = (
        b"N" + b"\x94" * many + b"0",
        b"N" + b"".join(b"r" + struct.pack("<I", k * 977) for k in range(times)) + b"0",
        b"Nr\xff\xff\xff\xff0",
        b"(" + b"\x8f" * many + b"1",
        calls(text, b"c_codecs\nencode\n", b"U\x06latin1\x86R"),
        calls(text, b"cbuiltins\nbytearray\n"),
        programs.shared_lists(10, generator.randint(2, 9)),
        calls(b"](" + b"K\x01" * times + b"e", b"c__builtin__\nset\n"),
        *(b"]2a", b"]22(2h\x00e", b"}2N2s"),
    )
    program = generator.choice(choices)
    if generator.random() < 0.5:
        insert(generator, pieces, program)
    else:
        places = places_of(pieces, ("NONE", "BINFLOAT", "REDUCE"))
        pieces[generator.choice(places or [1])] = "", (b"0" if places else b"") + program


# What they hold


def change_values(generator, _):
    """Make one or two wrong changes to a valid content, and pickle it."""
    # Copies of long doubles have uninitialised bytes, on which a case must not depend.
    name = generator.choice([name for name in contents() if name != "long double"])
    content = {split: dict(parts) for split, parts in contents()[name].items()}
    for _ in range(generator.choice((1, 1, 2))):
        change_content(generator, content)
    return pickle.dumps(content, generator.choice(PROTOCOLS))


OPCODES = [bytes([code]) for code in range(128) if chr(code).isprintable()]
OPCODES += [bytes([code]) for code in range(0x80, 0x99)]
INSTRUCTIONS = {
    "sizes declared": declare_sizes,
    "instructions changed": shuffle_instructions,
    "arguments changed": change_arguments,
    "names changed": change_names,
    "payload inserted": insert_payload,
    "foreign instructions": insert_foreign,
    "nested deeply": nest_deeply,
    "memory bomb": bomb_memory,
}
MUTATIONS = {
    "bits flipped": flip_bits,
    "bytes replaced": replace_bytes,
    "cut": cut,
    "blocks moved": move_blocks,
    "numbers written": write_number,
    **INSTRUCTIONS,
    "content changed": change_values,
}


def mutate(generator, files=None):
    """Return one mutated file: the kind of its change, and its bytes. files: those to change."""
    # Changes of the content reach the parts of the reader behind the unpickler, so there are more of them.
    kinds = list(MUTATIONS) if files is None else [kind for kind in MUTATIONS if kind != "content changed"]
    weights = [4 if kind == "content changed" else 1 for kind in kinds]
    kind = generator.choices(kinds, weights)[0]
    content = generator.choice(list((corpus() if files is None else files).values()))
    if kind not in INSTRUCTIONS:
        return kind, MUTATIONS[kind](generator, content)
    pieces = programs.split(content)
    INSTRUCTIONS[kind](generator, pieces)
    return kind, programs.join(pieces)
