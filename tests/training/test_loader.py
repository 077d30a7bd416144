import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
from small_data import tumor_regions
from small_plans import AUGMENTATION, small_tumor_plan

from kitspipe.errors import UserError
from kitspipe.training.augmentation import Augment
from kitspipe.training.loader import PatchReader, WorkerError, batches
from kitspipe.training.patches import tumor_slab
from kitspipe.training.sampling import TumorSampler

PLAN = small_tumor_plan(patch_size=(16, 24), slab_depth=3)


def read(case, request):
    return tumor_slab(case, request, PLAN)


def loaded(regions, workers, read=read, steps=range(5), epoch=1, patience_s=60.0):
    reader = PatchReader(
        TumorSampler(regions, PLAN, 3),
        read,
        batch_size=2,
        epoch=epoch,
        steps=steps,
        workers=workers,
        augmentation=AUGMENTATION,
    )
    return batches(reader, Augment(AUGMENTATION), workers=workers, patience_s=patience_s)


def assert_same(some, others):
    assert len(some) == len(others) == 5
    for a, b in zip(some, others, strict=True):
        assert a.cases == b.cases
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.target, b.target)


def test_batches_do_not_depend_on_the_number_of_workers(tmp_path):
    regions = tumor_regions(tmp_path)
    alone = list(loaded(regions, 0))
    for workers in (1, 2, 3):
        assert_same(alone, list(loaded(regions, workers)))


class Tells:
    """A transform that puts what was drawn where the images were."""

    def __call__(self, **arrays):
        drawn = [change.parameters for change in arrays["change"]]
        numbers = [[p.rotation_degrees, p.scale, *p.translation, p.blur_sigma] for p in drawn]
        seg = np.zeros((len(drawn), 1), np.uint8)
        return {"data": np.array(numbers), "seg": seg, "cases": arrays["cases"]}


def test_workers_do_not_decide_in_lockstep(tmp_path):
    config = msgspec.structs.replace(AUGMENTATION, rotation_probability=1.0, scale_probability=1.0)
    sampler = TumorSampler(tumor_regions(tmp_path), PLAN, 3)
    reader = PatchReader(
        sampler, read, batch_size=1, epoch=0, steps=range(60), workers=2, augmentation=config
    )
    drawn = np.array([batch.image[0] for batch in batches(reader, Tells(), workers=2)], float)
    first, second = drawn[0::2], drawn[1::2]
    # Rotation, scale, translation: at the same position, the workers never agree.
    assert (first[:, :4] != second[:, :4]).all()
    # Of 30 independent pairs the correlation is beyond 0.6 once in two thousand times.
    pairs = [np.corrcoef(first[:, k], second[:, k])[0, 1] for k in range(4)]
    assert np.abs(pairs).max() < 0.6


def test_an_epoch_that_was_stopped_goes_on_with_its_next_batch(tmp_path):
    regions = tumor_regions(tmp_path)
    whole = list(loaded(regions, 0))
    rest = list(loaded(regions, 2, steps=range(2, 5)))
    for a, b in zip(whole[2:], rest, strict=True):
        np.testing.assert_array_equal(a.image, b.image)


def test_epochs_differ(tmp_path):
    regions = tumor_regions(tmp_path)
    first, second = (next(loaded(regions, 0, epoch=epoch)) for epoch in (0, 1))
    assert np.abs(first.image - second.image).max() > 0.1


def broken(case, request):
    raise OSError(f"disk says no to {case.name}")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_worker_that_raises_is_an_error_with_its_case_and_traceback(tmp_path, workers):
    with pytest.raises(WorkerError, match=r"case_0/(right|left)[\s\S]*OSError: disk says no"):
        list(loaded(tumor_regions(tmp_path), workers, read=broken))


def killed(case, request):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_is_killed_is_an_error_and_no_hang(tmp_path):
    started = time.monotonic()
    with pytest.raises(UserError, match=r"case_0/(right|left)[\s\S]*killed by signal \[9\]"):
        list(loaded(tumor_regions(tmp_path), 2, read=killed))
    assert time.monotonic() - started < 10


def killed_on_the_left(case, request):
    if case.name == "case_0/left":
        os.kill(os.getpid(), signal.SIGKILL)
    return read(case, request)


def test_only_the_cases_of_the_killed_worker_are_named(tmp_path):
    regions = tumor_regions(tmp_path)
    with pytest.raises(UserError) as caught:
        list(loaded(regions, 2, read=killed_on_the_left, steps=range(20)))
    assert "case_0/left" in caught.value.file


def stuck(case, request):
    os.kill(os.getpid(), signal.SIGSTOP)


def test_workers_that_hang_are_an_error_and_are_gone_then(tmp_path):
    regions, before = tumor_regions(tmp_path), set(multiprocessing.active_children())
    with pytest.raises(UserError, match=r"case_0/(right|left)[\s\S]*no batch for 1 s"):
        list(loaded(regions, 1, read=stuck, patience_s=1.0))
    assert set(multiprocessing.active_children()) <= before


def test_a_slow_training_is_not_taken_for_a_worker_that_hangs(tmp_path):
    made = loaded(tumor_regions(tmp_path), 2, patience_s=1.0)
    next(made)
    time.sleep(2.5)
    assert len(list(made)) == 4


def _load_and_tell(folder):
    made = loaded(tumor_regions(folder), 2)
    next(made)
    children = [child.pid for child in multiprocessing.active_children()]
    (folder / "children.json").write_text(json.dumps(children))
    time.sleep(60)


def test_workers_end_when_their_training_is_killed(tmp_path):
    trainer = multiprocessing.Process(target=_load_and_tell, args=(tmp_path,))
    trainer.start()
    told = tmp_path / "children.json"
    wait_for(lambda: told.exists() and told.read_text().endswith("]"))
    children = json.loads(told.read_text())
    trainer.kill()
    trainer.join()
    assert len(children) == 2
    wait_for(lambda: not any(map(is_running, children)))


def wait_for(condition, seconds=20):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def is_running(process):
    # Nobody may wait for an orphan in a container: it stays as a zombie then.
    status = Path(f"/proc/{process}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_images_lose_less_than_a_tenth_of_a_hu_on_their_way(tmp_path):
    sampler = TumorSampler(tumor_regions(tmp_path), PLAN, 3)
    reader = PatchReader(
        sampler, read, batch_size=2, epoch=1, steps=range(1), workers=0, augmentation=None
    )
    [batch] = batches(reader, Augment(AUGMENTATION), workers=0)
    requests = [sampler.request(1, sample) for sample in range(2)]
    exact = [read(sampler.cases[r.region], r) for r in requests]
    off = np.abs(batch.image - np.stack([patch["data"] for patch in exact]))
    assert off.max() * PLAN.hu_window.scale_hu < 0.1
    np.testing.assert_array_equal(batch.target, np.stack([patch["seg"] for patch in exact]))
