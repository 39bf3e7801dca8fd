"""A stand-in for `tests.perf.child.Child` that measures in this process."""

import contextlib
import importlib
import json

from tests.perf.child import ChildError


class InlineChild(contextlib.AbstractContextManager):
    def __init__(self, function, as_worker=True, root=None, **arguments):
        module, name = function.split(":")
        self.function, self._arguments = getattr(importlib.import_module(module), name), arguments

    def __exit__(self, *_):
        pass

    def begin(self, **request):
        # A process accepts only arguments that JSON can represent.
        self.request = json.loads(json.dumps(self._arguments)) | json.loads(json.dumps(request))

    def end(self):
        try:
            return self.function(**self.request)
        except Exception as error:
            raise ChildError(f"{type(error).__name__}: {error}") from error

    def ask(self, **request):
        self.begin(**request)
        return self.end()
