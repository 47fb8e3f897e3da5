"""A command in a process of its own, which says at its end whether torch was imported; and a walk
through what may have changed since a model was noted, which says each time whether it is loaded.
``MODULE`` does as ``python -m forwardcache``, and says the same at its end.

Run as ``python -c``, so that both have the same folders to import from.
"""

_ENDS = """
imported = sorted({"torch", "transformers", "peft", "polars", "scipy"} & sys.modules.keys())
print("imported:", *imported, file=sys.stderr)
sys.exit(code)
"""

COMMAND = f"""
import sys
from forwardcache.__main__ import main
code = main()
{_ENDS}"""

MODULE = f"""
import runpy, sys
try:
    runpy.run_module("forwardcache", run_name="__main__", alter_sys=True)
except SystemExit as end:
    code = end.code
{_ENDS}"""

CHANGES = """
import json, os, shutil, sqlite3, sys
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from forwardcache.jobs import recall
from forwardcache.jobs.imports import OWN_PROCESS
from forwardcache.jobs.options import ModelOptions, NamedAdapter, ScoreOptions
from forwardcache.jobs.prompts import read_prompts
from forwardcache.jobs.recall import contents, note as notes, run, surroundings
from forwardcache.jobs.views import parse_views
from forwardcache.store import open_store
from forwardcache.store.notes import keep_note, read_note

OWN_PROCESS.set(True)
folder = Path(sys.argv[1])
loading = ModelOptions(
    str(folder / "model"), (NamedAdapter(None, str(folder / "adapter")),), dtype="float32",
    store=str(folder / "values.db"),
)
options = ScoreOptions(
    loading, str(folder / "prompts.jsonl"), None, "next_token_dist", 8, None, False, False, None,
    False,
)
found = {}


def look(case, options=options, views="base,ft"):
    run.load = lambda loading, store, ready=None: store
    source = read_prompts(options.prompts).for_op(options.op, "fail")
    views = parse_views(views, has_adapter=True)
    session = run.Recall(options, source, views).session()
    found[case] = isinstance(session, run.StoredSession)
    session.close()


@contextmanager
def other_bytes(path, change):
    before, times = path.read_bytes(), path.stat()
    path.write_bytes(change(before))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    yield
    path.write_bytes(before)


def flipped(content):
    return content[:-1] + bytes([content[-1] ^ 1])


def with_loading(**changes):
    return replace(options, loading=replace(loading, **changes))


look("nothing")
for name in ("model/model.safetensors", "adapter/adapter_model.safetensors",
             "model/tokenizer.json", "model/config.json", "adapter/adapter_config.json"):
    with other_bytes(folder / name, flipped):
        look(name)
look("everything is as it was again")
(folder / "model" / "added_tokens.json").write_text("{}")
look("a file more")
(folder / "model" / "added_tokens.json").unlink()
weights = folder / "model" / "model.safetensors"
weights.rename(folder / "aside")
(folder / "other").write_bytes(flipped((folder / "aside").read_bytes()))
weights.symlink_to(folder / "other")
look("a link to other weights")
weights.unlink()
weights.symlink_to(folder / "aside")
look("a link to the same weights")
for change in (dict(dtype="float64"), dict(add_bos_token=True), dict(tokenizer="base"),
               dict(identity="strict"), dict(special_tokens=False), dict(token_budget=64),
               dict(chat_template=True), dict(keep="states"), dict(verify=0.5), dict(device="mps"),
               dict(allow_download=True), dict(adapters=())):
    look(str(change), with_loading(**change), "base" if change == dict(adapters=()) else "base,ft")
look("another view", views="base,scaled:0.5")
look("another number of tokens", replace(options, top_k=9))
look("another operation", replace(options, op="logprob_of"))
(folder / "more.jsonl").write_text('{"prompt": "Another one"}')
look("other prompts", replace(options, prompts=str(folder / "more.jsonl")))
os.environ["TORCH_SOMETHING"] = "1"
look("a variable of torch")
del os.environ["TORCH_SOMETHING"]
os.environ["SSH_TTY"] = "/dev/pts/9"
look("another terminal")
sys.path.append(str(folder))
look("another folder of modules")
sys.path.pop()
OWN_PROCESS.set(False)
look("a process of somebody else")
OWN_PROCESS.set(True)
sys.modules["torch"] = sys
look("torch is there")
del sys.modules["torch"]
told = contents.facts_of
contents.facts_of = lambda path: (*told(path)[:2], object(), *told(path)[3:])
look("a file is written while it is read")
contents.facts_of = told

source = read_prompts(options.prompts).for_op(options.op, "fail")
asked = run.Recall(options, source, ())
with closing(open_store(loading.store)) as store:
    key = asked._key()
    kept = read_note(store, key)

    def noted(change):
        plain = json.loads(kept)
        change(plain)
        keep_note(store, key, json.dumps(plain).encode())

    noted(lambda plain: plain["surroundings"]["versions"].update(torch=["torch-2.0.0.dist-info"]))
    look("another version of torch")
    noted(lambda plain: plain["surroundings"].update(accelerators=["/dev/nvidia0"]))
    look("an accelerator less")
    noted(lambda plain: plain["sources"].update(looks="x"))
    look("sources that look different and are the same")
    noted(lambda plain: plain["sources"].update(looks="x", contents="x"))
    look("other sources")
    there = sys.modules["forwardcache.errors"].__file__
    noted(lambda plain: plain["sources"]["paths"].remove(there))
    look("a module that wasn't there")
    noted(lambda plain: plain["sources"]["roots"].update(torch="/elsewhere/torch/__init__.py"))
    look("torch from elsewhere")
    noted(lambda plain: plain.update(format=0))
    look("another format")
    noted(lambda plain: plain.update(places=[[1]]))
    look("no note of ours")
    keep_note(store, key, b"[" * 100_000)
    look("nested too deep")
    keep_note(store, key, kept)
look("the note is back")
with closing(sqlite3.connect(loading.store)) as file, file:
    file.execute("UPDATE notes SET sealed = substr(sealed, 1, length(sealed) - 1) || x'20'")
look("damaged notes")
with closing(sqlite3.connect(loading.store)) as file, file:
    file.execute("DROP TABLE notes")
look("a store of an earlier version")
print(json.dumps(found))
"""
