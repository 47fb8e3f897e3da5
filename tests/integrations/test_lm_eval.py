"""Claims: tasks of the harness give the same with the model ``forwardcache`` as with its own
``hf``: log-likelihoods, greedy flags, rolling windows, texts; truncation, empty contexts and
trailing spaces included; in each view; and nothing is run twice.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from tokenizers import processors

from forwardcache.errors import AdapterError, ForwardCacheError, InvalidInputError, ModelLoadError
from forwardcache.hf import HFBackend
from forwardcache.integrations.lm_eval import ForwardCacheLM
from tests.hf import tiny
from tests.integrations.conftest import TASKS, TEXTS
from tests.patience import PATIENCE_S
from tests.warm import WarmPython

Folders = dict[str, str]

PAIRS = (
    ("the quick brown fox", " jumps over the lazy dog"),
    ("the quick brown fox", "es"),
    ("the quick brown fox ", "jumps"),
    ("", "hello world"),
    ("", "<s>hello"),
    ("<s>hello", " world"),
    ("hello world " * 40, " fox"),
    ("Zzz, ümlaut", " €!"),
)


def requests(kind: str, arguments: list[tuple[Any, ...]]) -> list[Instance]:
    made: Any = Instance
    return [made(kind, {}, one, number) for number, one in enumerate(arguments)]


def theirs(folders: Folders, **options: Any) -> Any:
    kind: Any = HFLM
    return kind(folders["model"], peft=folders["adapter"], device="cpu", dtype="float32", **options)


def ours(folders: Folders, **options: Any) -> Any:
    return ForwardCacheLM(folders["model"], peft=folders["adapter"], **options)


def evaluated(model: Any, tasks_folder: Path, tasks: list[str]) -> Any:
    manager = TaskManager(include_path=str(tasks_folder), include_defaults=False)
    return simple_evaluate(
        model, tasks=tasks, task_manager=manager, bootstrap_iters=0, batch_size=2
    )


def assert_same_answers(found: list[Any], expected: list[Any]) -> None:
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    sums = [value for value, _ in found]
    np.testing.assert_allclose(sums, [value for value, _ in expected], atol=2e-4)


@pytest.fixture(scope="module")
def hf(folders: Folders) -> Any:
    return theirs(folders, batch_size=3)


@pytest.mark.parametrize("task", TASKS)
def test_a_task_gives_the_same_as_with_the_harness_own_model(
    folders: Folders, hf: Any, tasks_folder: Path, task: str
) -> None:
    expected = evaluated(hf, tasks_folder, [task])
    found = evaluated(ours(folders, batch_size=2), tasks_folder, [task])
    for name, value in expected["results"][task].items():
        same = pytest.approx(value, rel=1e-5) if isinstance(value, float) else value
        assert found["results"][task][name] == same, name
    pairs = zip(found["samples"][task], expected["samples"][task], strict=True)
    for one, other in pairs:
        assert one["doc_id"] == other["doc_id"]
        mine, given = ([each[0] for each in sample["resps"]] for sample in (one, other))
        if task == "choice":
            assert_same_answers(mine, given)
        elif task == "rolling":
            np.testing.assert_allclose(mine, given, rtol=1e-5)
        else:
            assert mine == given


def test_log_likelihoods_and_greedy_flags_are_the_harness_own(folders: Folders, hf: Any) -> None:
    asked = requests("loglikelihood", list(PAIRS))
    # One at a time: together, its cache of logits takes those of the wrong place for the sixth,
    # whose tokens are those of the fourth with another boundary.
    expected = [hf.loglikelihood([one])[0] for one in asked]
    assert_same_answers(ours(folders).loglikelihood(asked), expected)


def test_a_greedy_continuation_is_called_greedy(folders: Folders, hf: Any) -> None:
    lm = ours(folders)
    context, backend = lm.tok_encode("hello world"), lm._backend
    best = int(tiny.logprobs_after(backend.model, context)[-1].argmax())
    for token in (best, (best + 1) % 300):
        asked = [(("", ""), context, [token])]
        [found], [expected] = (each._loglikelihood_tokens(asked) for each in (lm, hf))
        assert found[1] == expected[1] == (token == best)


@pytest.mark.parametrize("max_length", [None, 7])
def test_texts_longer_than_the_context_are_scored_in_the_same_windows(
    folders: Folders, max_length: int | None
) -> None:
    asked = requests("loglikelihood_rolling", [(text,) for text in [*TEXTS, ""]])
    lm = ours(folders, max_length=max_length)
    longest = max(len(lm.tok_encode(text)) for text in TEXTS)
    assert longest > 2 * lm.max_length
    expected = theirs(folders, max_length=max_length).loglikelihood_rolling(asked)
    np.testing.assert_allclose(lm.loglikelihood_rolling(asked), expected, rtol=1e-5)


def test_nothing_is_run_twice_and_the_harness_is_told_what_was(
    folders: Folders, tasks_folder: Path
) -> None:
    lm = ours(folders)
    first = evaluated(lm, tasks_folder, ["choice", "rolling"])
    computed = lm._backend.stats.forward_passes
    again = evaluated(lm, tasks_folder, ["choice", "rolling"])
    assert again["results"] == first["results"]
    assert (
        lm._backend.stats.forward_passes == computed == first["config"]["forwardcache_passes"] > 0
    )
    assert again["config"]["forwardcache_hits"] >= computed


@pytest.mark.parametrize("view", ["base", "scaled:0.5", "null:3"])
def test_a_view_can_be_asked_for(folders: Folders, view: str) -> None:
    backend = HFBackend.load(folders["model"], folders["adapter"])
    asked = requests("loglikelihood", list(PAIRS))
    lm = ForwardCacheLM(backend, view=view)
    found = lm.loglikelihood(asked)
    assert found != ForwardCacheLM(backend).loglikelihood(asked)
    kind: Any = HFLM
    if view == "base":
        plain = kind(folders["model"], device="cpu", dtype="float32", logits_cache=False)
        assert_same_answers(found, plain.loglikelihood(asked))
        write = requests("generate_until", [("hello", {"max_gen_toks": 8, "until": []})])
        assert lm.generate_until(write) == plain.generate_until(write)


def test_the_harness_own_cache_gets_every_answer(folders: Folders) -> None:
    lm = ours(folders)
    noted: dict[Any, Any] = {}

    class Hook:
        def add_partial(self, kind: str, arguments: Any, answer: Any) -> None:
            noted[kind, arguments] = answer

    lm.set_cache_hook(Hook())
    answers = lm.loglikelihood(requests("loglikelihood", list(PAIRS)))
    sums = lm.loglikelihood_rolling(requests("loglikelihood_rolling", [(t,) for t in TEXTS]))
    expected: dict[Any, Any] = {
        ("loglikelihood", pair): one for pair, one in zip(PAIRS, answers, strict=True)
    }
    expected |= {
        ("loglikelihood_rolling", (text,)): total for text, total in zip(TEXTS, sums, strict=True)
    }
    assert noted == expected


def test_what_can_not_be_scored_is_refused_at_once(folders: Folders, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="not a folder"):
        ForwardCacheLM("some/hub-name")
    with pytest.raises(AdapterError):
        ForwardCacheLM(folders["model"], view="ft")


@pytest.mark.parametrize(
    "option",
    [
        {"no_such_option": 1},
        {"trust_remote_code": True},
        {"parallelize": True},
        {"revision": "v2"},
        {"use_fast_tokenizer": False},
        {"load_in_4bit": True},
        {"delta": "folder"},
        {"softmax_dtype": "float64"},
        {"chat_template": True},
        {"add_special_tokens": False},
        {"attn_implementation": "someone/kernel"},
        {"tokenizer": "no/such/folder"},
        {"tokenizer": 3},
        {"add_bos_token": "yes"},
    ],
)
def test_an_option_that_can_not_be_met_is_refused_by_its_name(
    folders: Folders, option: dict[str, Any]
) -> None:
    [name] = option
    with pytest.raises(ForwardCacheError, match=name) as raised:
        ours(folders, **option)
    assert "\n" not in str(raised.value)


def test_options_of_the_harness_that_ask_for_nothing_else_are_taken(folders: Folders) -> None:
    defaults = {"trust_remote_code": False, "parallelize": None, "revision": "main"}
    lm = ours(
        folders, **defaults, backend="causal", logits_cache=False, attn_implementation="eager"
    )
    assert lm.model.config._attn_implementation == "eager"


def test_options_of_loading_are_refused_with_a_backend(folders: Folders) -> None:
    backend = HFBackend.load(folders["model"])
    options: tuple[dict[str, Any], ...] = ({"peft": folders["adapter"]}, {"dtype": "float16"})
    for option in options:
        with pytest.raises(InvalidInputError, match=next(iter(option))):
            ForwardCacheLM(backend, **option)


@pytest.fixture(scope="module")
def framings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of one model with tokenizers that frame a text in four ways."""
    root = tmp_path_factory.mktemp("framings")
    model = tiny.llama()
    template = processors.TemplateProcessing
    known = [("<s>", 0), ("</s>", 1)]
    frames = {
        "neither": None,
        "bos": template(single="<s> $A", special_tokens=known),
        "both": template(single="<s> $A </s>", special_tokens=known),
        "no token": None,
    }
    for name, frame in frames.items():
        tokenizer = tiny.tokenizer()
        tokenizer.backend_tokenizer.post_processor = frame or processors.ByteLevel()
        if name == "no token":
            tokenizer = tiny.tokenizer(bos=False)
        model.resize_token_embeddings(len(tokenizer))
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    return {name: str(root / name) for name in frames}


@pytest.mark.parametrize("add", [None, True, False])
@pytest.mark.parametrize("name", ["neither", "bos", "both", "no token"])
def test_add_bos_token_does_what_it_does_in_the_harness_own_model(
    framings: dict[str, str], name: str, add: bool | None
) -> None:
    kind: Any = HFLM
    folder = framings[name]
    hf = kind(folder, device="cpu", dtype="float32", add_bos_token=add, logits_cache=False)
    asked = requests("loglikelihood", [p for p in PAIRS if name != "no token" or "<s>" not in p[0]])
    rolling = requests("loglikelihood_rolling", [("hello world",), ("",), (TEXTS[1],)])
    write = requests("generate_until", [("hello", {"max_gen_toks": 6, "until": []})])
    for lm in (
        ForwardCacheLM(folder, add_bos_token=add),
        ForwardCacheLM(HFBackend.load(folder), add_bos_token=add),
    ):
        assert lm.tok_encode("hello") == hf.tok_encode("hello")
        assert_same_answers(lm.loglikelihood(asked), hf.loglikelihood(asked))
        found, expected = (each.loglikelihood_rolling(rolling) for each in (lm, hf))
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        assert lm.generate_until(write) == hf.generate_until(write)


def test_add_bos_token_is_refused_where_the_tokenizer_can_not_be_loaded_again(
    framings: dict[str, str],
) -> None:
    made = tiny.tokenizer()
    backend = HFBackend(tiny.llama(), made)
    assert ForwardCacheLM(backend, add_bos_token=True).tok_encode("a") == made("a").input_ids
    with pytest.raises(InvalidInputError, match="add_bos_token=False"):
        ForwardCacheLM(backend, add_bos_token=False)
    changed = HFBackend.load(framings["neither"])
    changed.tokenizer.add_tokens(["<new>"])
    with pytest.raises(InvalidInputError, match="add_bos_token=True"):
        ForwardCacheLM(changed, add_bos_token=True)


def test_a_continuation_of_no_tokens_is_certain_and_the_others_are_answered(
    folders: Folders, hf: Any
) -> None:
    asked = requests("loglikelihood", [("hello", " world"), ("hello", ""), ("", ""), ("a", " fox")])
    lm = ours(folders)
    found = lm.loglikelihood(asked)
    assert found[1:3] == [(0.0, True)] * 2
    # Batched with another request of its context, the harness's own model gives the same.
    assert hf.loglikelihood(asked[:2])[1] == (0.0, True)
    expected = [hf.loglikelihood([asked[place]])[0] for place in (0, 3)]
    assert_same_answers([found[0], found[3]], expected)
    assert lm._backend.stats.forward_passes == 2


def test_the_command_line_knows_the_model(
    folders: Folders, hf: Any, tasks_folder: Path, tmp_path: Path, warm: WarmPython
) -> None:
    trace = tmp_path / "trace.jsonl"
    arguments = f"pretrained={folders['model']},peft={folders['adapter']},trace_path={trace}"
    command = [
        *(str(warm.python), "-m", "forwardcache.integrations.lm_eval"),
        *("--model", "forwardcache", "--model_args", arguments, "--tasks", "choice"),
        *("--include_path", str(tasks_folder), "--output_path", str(tmp_path / "out")),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    [results] = (tmp_path / "out").rglob("results_*.json")
    found = json.loads(results.read_text(encoding="utf-8"))["results"]["choice"]
    expected = evaluated(hf, tasks_folder, ["choice"])["results"]["choice"]
    assert found["acc,none"] == expected["acc,none"]
    events = [json.loads(line) for line in trace.read_text(encoding="utf-8").splitlines()]
    assert {event["op"] for event in events} == {"continuation_logprob"}
    assert len(events) == 12


def test_what_is_refused_on_its_command_line_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from forwardcache.integrations.lm_eval import __main__ as command

    def refuse() -> None:
        raise ModelLoadError("the model folder 'none' isn't there")

    monkeypatch.setattr(command, "cli_evaluate", refuse)
    assert command.main() == 2
    assert capsys.readouterr().err == "forwardcache: the model folder 'none' isn't there\n"
