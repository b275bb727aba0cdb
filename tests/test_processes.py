from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microscope_bench import evaluate, load_result
from microscope_bench.adapters.offloading import device_options
from microscope_bench.errors import AdapterError
from microscope_bench.measure.scores import own_boundaries
from microscope_bench.system.processes import ALONE, Processes, ProcessesError, launched
from tests.together import VARIABLES, environments, outcomes, start
from tests.toy import ToyAdapter, ToyTask, result_files

BROKEN = {7: "picture"}
OPTIONS = {
    "metrics": ("linearity", "intrinsic_dimension", "anisotropy", "cka"),
    "split_by": "correct",
    "max_skipped": 0.02,
    "batch_size": 4,
    "progress": False,
}
RUN = f"""
import sys, logging
from microscope_bench import evaluate, errors
from tests.toy import ToyAdapter, ToyTask
logging.basicConfig(level=logging.INFO)
broken = {BROKEN!r}
metrics = {OPTIONS["metrics"]!r}
options = {OPTIONS!r}
"""
EVALUATE = """
result = evaluate(ToyAdapter(), ToyTask(64, broken=broken), output_path=sys.argv[1], **options)
print(len(result.scores))
"""


def result_in(path):
    (file,) = result_files(path)
    return load_result(file)


def run(n, path, before="", code=EVALUATE):
    return outcomes(start(n, RUN + before + code, str(path)))


@pytest.fixture(scope="module")
def alone():
    return evaluate(ToyAdapter(), ToyTask(64, broken=BROKEN), **OPTIONS)


def assert_same(result, reference):
    assert result.scores == reference.scores
    assert result.sinks == reference.sinks
    assert result.identity == reference.identity
    assert result.inputs == reference.inputs
    assert result.accuracy == reference.accuracy


@pytest.mark.parametrize("n", [2, pytest.param(3, marks=pytest.mark.heavy), pytest.param(5, marks=pytest.mark.heavy)])
def test_several_processes_give_the_result_of_one(n, alone, tmp_path):
    found = run(n, tmp_path)
    assert [status for status, *_ in found] == [0] * n, found
    assert {out for _, out, _ in found} == {f"{len(alone.scores)}\n"}, "each returns the whole result"
    assert_same(result_in(tmp_path), alone)
    assert len(alone.inputs.skipped) == 1
    assert not list(tmp_path.rglob("*.safetensors"))


STOP = """
class Stops(ToyTask):
    def example(self, index):
        if index == {index} and sys._getframe(2).f_code.co_name == "_encode":
            raise {error}
        return super().example(index)
ToyTask = Stops
"""


def test_a_process_that_fails_ends_the_others_and_another_number_of_them_resumes(alone, tmp_path):
    begin = time.monotonic()
    found = run(2, tmp_path, STOP.format(index=50, error="errors.CaptureError('no such layer')"))
    assert time.monotonic() - begin < 100, "the other waits for minutes"
    assert all(status != 0 for status, *_ in found)
    assert sum("microscope_bench.errors.CaptureError: no such layer" in err for *_, err in found) == 1
    assert sum("ProcessesError: the other processes of this run cannot be reached (" in err for *_, err in found) == 1
    failed = result_in(tmp_path)
    assert failed.status == "failed" and "no such layer" in failed.error.message
    (out,) = run(1, tmp_path)
    assert out[0] == 0 and "resuming" in out[2]
    assert_same(result_in(tmp_path), alone)


@pytest.mark.heavy
def test_too_many_skipped_examples_are_counted_over_all_processes(tmp_path):
    # one of 64 may be skipped; the two bad ones lie in the first and in the last part
    found = run(2, tmp_path, "broken = {0: 'picture', 63: 'picture'}\n")
    assert all(status != 0 for status, *_ in found)
    assert any("2 of 64 examples could not be measured, 1 may be" in err for *_, err in found)


def test_processes_that_would_measure_different_things_are_refused(tmp_path):
    found = run(2, tmp_path, "import os\noptions['seed'] = int(os.environ['RANK'])\n")
    assert all("process 1 is not measuring what process 0 is (different: " in err for *_, err in found)
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.heavy
def test_a_store_that_not_all_processes_see_is_refused(tmp_path):
    before = (
        "import os\nfrom microscope_bench.capture import sharing\nsharing.PATIENCE_SECONDS = 0.5\n"
        "sys.argv[1] += '/' + os.environ['RANK']\n"
    )
    found = run(2, tmp_path, before)
    assert any("all processes need one directory on a file system that they share" in err for *_, err in found)
    assert all(status != 0 for status, *_ in found)


def test_each_item_is_taken_once_and_values_come_from_the_first():
    code = (
        "from microscope_bench.system.processes import launched\np = launched()\n"
        "print(*p.take(range(20)), *[x for part in p.gather(list(p.take('abc'))) for x in part], sep=',')\n"
        "assert p.from_first(lambda: p.rank) == 0 and p.gather(p.rank) == [0, 1, 2]\n"
        "add = p.counter(); add(2); p.wait(); assert add(0) == 6\n"
    )
    found = outcomes(start(3, code))
    assert [status for status, *_ in found] == [0, 0, 0], found
    taken = [item for _, out, _ in found for item in out.strip().split(",") if item.isdecimal()]
    assert sorted(map(int, taken)) == list(range(20))
    assert all(sorted(x for x in out.strip().split(",") if x.isalpha()) == ["a", "b", "c"] for _, out, _ in found)


def test_one_process_waits_for_nobody():
    assert ALONE.gather(3) == [3] and ALONE.from_first(lambda: 4) == 4 and list(ALONE.take("ab")) == ["a", "b"]
    add = ALONE.counter()
    assert (add(2), add(3)) == (2, 5)
    code = "import sys, microscope_bench.system.processes as p; p.launched().wait(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env=environments(1)[0])


@given(st.integers(0, 100), st.integers(1, 40))
def test_every_boundary_has_one_process_and_neighbours_stay_together(n_layers, n):
    own = [own_boundaries(n_layers, Processes(rank, n)) for rank in range(n)]
    assert [layer for one in own for layer in one] == list(range(n_layers + 1))
    heavy = [len(set(one) - {n_layers}) for one in own]  # the last boundary has no next
    assert max(heavy) - min(heavy) <= 1


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ALONE),
        ({"RANK": "0", "WORLD_SIZE": "1"}, ALONE),
        ({"WORLD_SIZE": "8"}, ALONE),
        ({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}, Processes(5, 8, 1, 4)),
        ({"RANK": "5", "WORLD_SIZE": "8"}, Processes(5, 8, 0, 1)),
    ],
)
def test_the_launchers_variables(monkeypatch, given, expected):
    set_variables(monkeypatch, given)
    assert launched() == expected


def set_variables(monkeypatch, given):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("given", [{"RANK": "8", "WORLD_SIZE": "8"}, {"RANK": "a", "WORLD_SIZE": "8"}])
def test_variables_that_make_no_sense_are_refused(monkeypatch, given):
    set_variables(monkeypatch, given)
    with pytest.raises(ProcessesError, match=f"RANK={given['RANK']}, WORLD_SIZE=8"):
        launched()


def test_without_an_address_there_is_a_way_out(monkeypatch):
    set_variables(monkeypatch, {"RANK": "0", "WORLD_SIZE": "2"})
    with pytest.raises(ProcessesError, match=r"MASTER_ADDR and MASTER_PORT are not set.*unset RANK and WORLD_SIZE"):
        launched().wait()


def test_a_model_is_not_spread_over_all_gpus_by_each_process(monkeypatch):
    set_variables(monkeypatch, {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"})
    with pytest.raises(AdapterError, match="each of the 2 processes"):
        device_options("auto", None, None)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert device_options("auto", None, None) == {"device_map": "auto"}


@pytest.mark.parametrize(
    ("kind", "n_gpus", "local_rank", "device"),
    [
        ("cuda", 4, 2, "cuda:2"),
        ("cuda", 1, 2, "cuda"),
        ("cuda", 2, 3, "cuda:1"),
        ("mps", 1, 0, "mps"),
        ("xpu", 2, 1, "xpu:1"),
        ("hpu", 2, 1, "cpu"),
        (None, 0, 1, "cpu"),
    ],
)
def test_each_process_has_a_gpu_of_its_own_where_there_are_several(monkeypatch, kind, n_gpus, local_rank, device):
    import torch

    from microscope_bench.system import devices

    found = None if kind is None else torch.device(kind)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: found)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: n_gpus)
    set_variables(monkeypatch, {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": str(local_rank), "LOCAL_WORLD_SIZE": "4"})
    assert devices._default() == device


def test_a_device_without_float64_leaves_the_measuring_to_the_cpu(monkeypatch):
    import torch

    from microscope_bench.system import devices

    monkeypatch.setattr(devices, "product_seconds", lambda device: 1.0)
    assert devices.measuring_device("meta") == torch.device("meta")  # a device of another kind that is always there
    zeros = torch.zeros

    def without_float64(*args, dtype=None, device=None, **kwargs):
        if torch.device(device or "cpu").type == "meta" and dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return zeros(*args, dtype=dtype, device=device, **kwargs)

    monkeypatch.setattr(torch, "zeros", without_float64)
    assert devices.pick_device("meta") == torch.device("meta")
    assert devices.measuring_device("meta") == torch.device("cpu")


@pytest.mark.parametrize("there, taken", [(0.9, "meta"), (1.1, "cpu")])
def test_a_device_that_is_slow_in_float64_leaves_the_measuring_to_the_cpu(monkeypatch, caplog, there, taken):
    import torch

    from microscope_bench.system import devices

    assert 0 < devices.product_seconds(torch.device("cpu")) < 60
    monkeypatch.setattr(devices, "product_seconds", lambda device: {"meta": there, "cpu": 1.0}[device.type])
    with caplog.at_level("INFO", logger="microscope_bench"):
        assert devices.measuring_device("meta") == torch.device(taken)
        assert devices.measuring_device("cpu") == torch.device("cpu")
    said = "in float64 the CPU is 1.1 times as fast as meta: it measures the states"
    assert caplog.messages == ([said] if taken == "cpu" else [])


@pytest.mark.parametrize(("n_gpus", "each"), [(4, 80), (3, 40), (1, 20)])
def test_processes_that_share_a_gpu_share_its_memory(monkeypatch, n_gpus, each):
    import torch

    from microscope_bench.system import devices

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (80, 100))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n_gpus)
    set_variables(monkeypatch, {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "3", "LOCAL_WORLD_SIZE": "4"})
    assert devices.free_bytes(torch.device("cuda")) == each
    assert devices.free_bytes(torch.device("cpu")) is None


MEASURE = """
from microscope_bench.run.measure_store import measure_store
(store,) = __import__("pathlib").Path(sys.argv[2]).glob(".stores/*")
measure_store(store, metrics=metrics, split_by="correct", output_path=sys.argv[1], progress=False)
"""


@pytest.mark.heavy
def test_two_processes_refuse_parts_in_the_place_of_others_and_capture_them_again(alone, tmp_path):
    evaluate(ToyAdapter(), ToyTask(64, broken=BROKEN), output_path=tmp_path, keep_store=True, **OPTIONS)
    (parts,) = tmp_path.glob(".stores/*/parts")
    for ending in ("json", "safetensors"):
        shutil.copy(parts / f"00000.{ending}", parts / f"00001.{ending}")
        (parts / f"00002.{ending}").rename(parts / f"kept.{ending}")
        (parts / f"00003.{ending}").rename(parts / f"00002.{ending}")
        (parts / f"kept.{ending}").rename(parts / f"00003.{ending}")
    found = outcomes(start(2, RUN + MEASURE, str(tmp_path / "again"), str(tmp_path)))
    assert all(status != 0 for status, *_ in found) and not (tmp_path / "again").exists()
    assert any("parts/00001.json cannot be read (it is that of another part" in err for *_, err in found), found
    found = run(2, tmp_path)
    assert [status for status, *_ in found] == [0, 0], found
    assert found[0][2].count("is captured again") == 3
    assert_same(result_in(tmp_path), alone)


@pytest.mark.heavy
def test_a_kept_store_is_measured_by_two_processes(alone, tmp_path):
    assert run(2, tmp_path, "options['keep_store'] = True\n")[0][0] == 0
    found = outcomes(start(2, RUN + MEASURE, str(tmp_path / "again"), str(tmp_path)))
    assert [status for status, *_ in found] == [0, 0], found
    assert_same(result_in(tmp_path / "again"), alone)


COMMAND = ["run", "--model", "zoo-llava-next", "--tasks", "shapesqa", "--limit", "40", "--batch_size", "4"]


def torchrun(n, path, *options):
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={n}"] if n > 1 else []
    command = [sys.executable, *launcher, "-m", "microscope_bench", *COMMAND, "--output_path", str(path), *options]
    return subprocess.Popen(
        command, env=environments(1)[0], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0
    )


@pytest.mark.heavy
@pytest.mark.parametrize(
    "options",
    [("--split_by", "correct"), ("--mainflow",), ("--control", "shuffled_image"), ("--metrics", "all")],
    ids=lambda options: options[0],
)
def test_torchrun_gives_the_result_of_one_process(options, tmp_path):
    for n in (1, 2, 4):
        process = torchrun(n, tmp_path / str(n), *options)
        out, err = process.communicate(timeout=400)
        assert process.returncode == 0, err
        assert out.count("geometry/1|") == 1, "one process speaks"
        assert_same(result_in(tmp_path / str(n)), result_in(tmp_path / "1"))


@pytest.mark.heavy
def test_a_run_killed_under_four_processes_resumes_under_two_and_one(tmp_path):
    assert torchrun(1, tmp_path / "whole").wait(400) == 0
    for n, wanted_parts in ((4, 1), (2, 2)):
        process = torchrun(n, tmp_path / "killed")
        while len(list((tmp_path / "killed").rglob("parts/*.json"))) < wanted_parts and process.poll() is None:
            time.sleep(0.005)
        assert process.poll() is None, "it ended before it could be killed"
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=100)
        assert process.returncode != 0
    assert torchrun(1, tmp_path / "killed").wait(400) == 0
    assert_same(result_in(tmp_path / "killed"), result_in(tmp_path / "whole"))
