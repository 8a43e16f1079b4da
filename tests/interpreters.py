"""A program that uses fastcas in several interpreters of one process, in the order of its arguments:

    python interpreters.py LAYOUT (main | legacy | isolated)…

"main" is its own interpreter, the others are new ones, with what they share with it. Each tells whether
all went right, or the ImportError.
"""

import os
import sys

USE = """
import sys
sys.path[:] = {path}
try:
    import fastcas
except ImportError as error:
    told = f"ImportError: {{error}}"
else:
    with fastcas.open({layout!r}) as cas:  # whatever begins threads
        content = bytes(5_000_000)
        digest, _ = cas.put_blob(iter([content]))
        with cas.get_blob(digest) as blob:
            assert blob.read(1000) + blob.read() == content
            assert blob.verified
        cas.put_blobs([b"1", b"2", content])
        cas.update_index(lambda index: index)
        assert cas.scrub(threads=2).problems == []
        assert cas.gc(grace=0).kept == 0
    told = "right"
with open({told!r}, "w") as file:
    file.write(told)
"""


def run_in_another(code: str, isolated: bool) -> None:
    try:
        import _interpreters  # type: ignore[import-not-found]  # Python 3.13
    except ImportError:
        import _xxsubinterpreters

        made = _xxsubinterpreters.create(isolated=isolated)
        _xxsubinterpreters.run_string(made, code)
    else:
        made = _interpreters.create("isolated" if isolated else "legacy")
        failure = _interpreters.exec(made, code)
        assert failure is None, failure


def main() -> None:
    layout = sys.argv[1]
    told = f"{layout}.told"
    code = USE.format(path=sys.path, layout=layout, told=told)
    for kind in sys.argv[2:]:
        if kind == "main":
            exec(code, {})
        else:
            run_in_another(code, kind == "isolated")
        with open(told) as file:
            print(file.read())
        os.unlink(told)


if __name__ == "__main__":
    main()
