"""What the tests of the sffn program share: running it, and results as TAP, one line per case."""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import traceback
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MODEL_FOLDER = os.path.join(os.path.dirname(ROOT), "shared", "models", "reglu-30m")
NO_MODEL_FOLDER = f"no {MODEL_FOLDER}, the Hugging Face folder of the bundled model's kin; it is not part of the repository"
MODEL_GGUF = os.path.join(ROOT, "examples", "models", "reglu-33m.gguf")
SFFN = TOKENIZE = None


def run(*args, env=None, stdin=b"", timeout=600):
    """(exit status, stdout, stderr) of `sffn args`."""
    done = subprocess.run([SFFN, *map(str, args)], input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout,
                          env=env and {**os.environ, **env}, check=False)
    return done.returncode, done.stdout.decode("utf-8", "strict"), done.stderr.decode("utf-8", "replace")


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder_object = tempfile.TemporaryDirectory(prefix="sffn_cli_")
        cls.folder = cls.folder_object.name

    @classmethod
    def tearDownClass(cls):
        cls.folder_object.cleanup()

    def path(self, name):
        return os.path.join(self.folder, name)

    def ok(self, *args, **kwargs):
        status, out, err = run(*args, **kwargs)
        self.assertEqual(status, 0, f"sffn {args}: {err}")
        return out, err

    def json(self, *args, **kwargs):
        out, _ = self.ok(*args, "--json", **kwargs)
        self.assertEqual(out.count("\n"), 1, "one object on one line")
        return json.loads(out)

    def fails(self, status, *args, says=(), **kwargs):
        """The command ends with this status, nothing on stdout, and one line on stderr that has these words."""
        got, out, err = run(*args, **kwargs)
        self.assertEqual(got, status, f"sffn {args}: {out}{err}")
        self.assertEqual(out, "")
        self.assertEqual(err.count("\n"), 1, err)
        for word in says:
            self.assertIn(word, err)
        return err


class Tap(unittest.TestResult):
    def __init__(self):
        super().__init__()
        self.n = 0

    def line(self, ok, test, more=""):
        self.n += 1
        print(f"{'ok' if ok else 'not ok'} {self.n} - {test.id().removeprefix('__main__.')}{more}", flush=True)

    def addSuccess(self, test):
        self.line(True, test)

    def addSkip(self, test, reason):
        self.line(True, test, f" # SKIP {reason}")

    def problem(self, test, err):
        self.line(False, test)
        for line in "".join(traceback.format_exception(*err)).splitlines():
            print("# " + line, flush=True)

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err:  # unittest then reports nothing more for the test
            self.problem(subtest, err)

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self.problem(test, err)

    def addError(self, test, err):
        super().addError(test, err)
        self.problem(test, err)


def main():
    global SFFN, TOKENIZE
    parser = argparse.ArgumentParser()
    parser.add_argument("--sffn", required=True)
    parser.add_argument("--tokenize", required=True)
    parser.add_argument("names", nargs="*", help="only tests whose name contains one of these")
    args = parser.parse_args()
    SFFN, TOKENIZE = args.sffn, args.tokenize
    suite = unittest.TestSuite()
    loaded = unittest.defaultTestLoader.loadTestsFromModule(sys.modules["__main__"])

    def add(item):
        if isinstance(item, unittest.TestSuite):
            kept = [test for test in item if not isinstance(test, unittest.TestCase) or not args.names
                    or any(name in test.id() for name in args.names)]
            for test in kept:
                add(test)
        else:
            suite.addTest(item)

    add(loaded)
    result = Tap()
    suite.run(result)
    print(f"1..{result.n}")
    return 0 if result.wasSuccessful() else 1
