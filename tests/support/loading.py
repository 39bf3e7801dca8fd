"""Which calls of a source file could load code from a file, by its syntax tree."""

import ast

# Modules that load objects, and functions that load, evaluate or run: any mention is a finding.
MODULES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle"}
FUNCTIONS = {
    *(f"yaml.{name}" for name in ("load", "load_all", "full_load", "full_load_all", "unsafe_load")),
    *(f"yaml.{name}" for name in ("unsafe_load_all", "Loader", "FullLoader", "UnsafeLoader", "CLoader")),
    *(f"yaml.{name}" for name in ("CFullLoader", "CUnsafeLoader")),
    *(f"torch.{name}" for name in ("jit.load", "hub.load", "package", "export.load")),
    *(f"mlflow.{name}.load_model" for name in ("pyfunc", "pytorch", "sklearn")),
    *("pandas.read_pickle", "pandas.read_hdf", "numpy.lib.format.read_array", "numpy.lib.npyio.NpzFile"),
    *("runpy.run_path", "runpy.run_module", "builtins.eval", "builtins.exec", "eval", "exec", "__import__"),
}
# Functions that load objects unless an argument forbids it -> that argument.
GUARDED = {
    "numpy.load": ("allow_pickle", "False"),
    "torch.load": ("weights_only", "True"),
}
HARMLESS = {"pickle.dump", "pickle.dumps", "pickle.Pickler", "pickle.PicklingError", "pickle.PickleError"}
# Methods of any Hugging Face class that load files.
METHODS = {"from_pretrained": ("trust_remote_code", "False")}


def unsafe_loads(text):
    """What could load code in a source text: (function or class around it, what)."""
    tree = ast.parse(text)
    names, guarded, findings = imported(tree), set(), set()
    for scope, node in scoped(tree):  # calls come before what they call
        name = full_name(getattr(node, "func", node), names)
        if isinstance(node, ast.Call):
            guard = GUARDED.get(name, METHODS.get(getattr(node.func, "attr", "")))
            if guard and guard not in {(k.arg, ast.unparse(k.value)) for k in node.keywords}:
                findings.add((scope, name or ast.unparse(node.func)))
            elif guard:
                guarded.add(node.func)
        elif node not in guarded and dangerous(node, name, names):
            findings.add((scope, name))
    return sorted(findings)


def imported(tree):
    """Return local name -> full name of everything that a module imports."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                names[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def scoped(tree, scope=""):
    """Yield each node and the dotted name of the function or class that encloses it."""
    for node in ast.iter_child_nodes(tree):
        inner = scope
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner = f"{scope}.{node.name}".lstrip(".")
        yield inner, node
        yield from scoped(node, inner)


def full_name(node, names):
    """The dotted name that an expression stands for; empty for any other expression."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        before = full_name(node.value, names)
        return f"{before}.{node.attr}" if before else ""
    return ""


def dangerous(node, name, names):
    if isinstance(node, ast.Name) and node.id not in names:
        return name in FUNCTIONS
    loads = name.partition(".")[0] in MODULES and "." in name and name not in HARMLESS
    return loads or name in FUNCTIONS or name in GUARDED
