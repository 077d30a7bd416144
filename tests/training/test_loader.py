import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from small_data import tumor_regions
from small_plans import AUGMENTATION, small_tumor_plan

from kitspipe.errors import UserError
from kitspipe.imaging.volume import Box
from kitspipe.preprocessing.intensity import background_value
from kitspipe.training.augmentation import Augment
from kitspipe.training.loader import PatchReader, WorkerError, batches, tumor_slab
from kitspipe.training.sampling import PatchRequest, TumorSampler

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
    )
    augment = Augment(AUGMENTATION, fill=background_value(PLAN.hu_window))
    return batches(reader, augment, workers=workers, patience_s=patience_s)


def test_batches_do_not_depend_on_the_number_of_workers(tmp_path):
    regions = tumor_regions(tmp_path)
    alone, three = list(loaded(regions, 0)), list(loaded(regions, 3))
    assert len(alone) == len(three) == 5
    for a, b in zip(alone, three, strict=True):
        assert a.cases == b.cases
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.target, b.target)


def test_workers_do_not_decide_in_lockstep(tmp_path):
    first, second = list(loaded(tumor_regions(tmp_path), 2))[:2]
    assert np.abs(first.image - second.image).max() > 0.1


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


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_that_is_killed_is_an_error_and_no_hang(tmp_path):
    started = time.monotonic()
    with pytest.raises(UserError, match=r"case_0/(right|left)[\s\S]*killed by signal \[9\]"):
        list(loaded(tumor_regions(tmp_path), 2, read=killed))
    assert time.monotonic() - started < 10


def killed_on_the_left(case, request):
    if case.name == "case_0/left":
        os.kill(os.getpid(), signal.SIGKILL)
    return read(case, request)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
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


def request(z, jitter=0.0):
    return PatchRequest(
        region=0,
        box=Box(start=(z, 4, 2), stop=(z + 3, 20, 26)),
        mask_jitter_mm=jitter,
        seed=(1, 2),
    )


def test_a_slab_is_masked_and_its_target_is_the_middle_slices(tmp_path):
    region = tumor_regions(tmp_path)[0]
    slab = tumor_slab(region, request(4), PLAN)
    box = request(4).box
    outside = region.read_distance_mm(box) > PLAN.mask_dilation_mm
    assert slab["data"].shape == (3, 16, 24)
    assert (slab["data"][outside] == background_value(PLAN.hu_window)).all()
    np.testing.assert_array_equal(slab["seg"], region.read_target(box)[1])


@pytest.mark.parametrize(("z", "expected"), [(-1, [0, 0, 1]), (9, [9, 10, 10])])
def test_slabs_repeat_the_regions_first_and_last_slice(tmp_path, z, expected):
    region = tumor_regions(tmp_path)[0]
    assert region.grid.shape[0] == 11
    slab = tumor_slab(region, request(z), PLAN)
    whole = tumor_slab(region, request(4), PLAN)["data"].shape
    in_plane = Box(start=(0, 4, 2), stop=(11, 20, 26))
    mask = region.read_distance_mm(in_plane) <= PLAN.mask_dilation_mm
    np.testing.assert_array_equal(slab["mask"], mask[expected])
    assert slab["data"].shape == whole
    np.testing.assert_array_equal(slab["seg"], region.read_target(in_plane)[z + 1])


def test_a_jittered_mask_wanders_around_its_border_and_stays_within_its_mm(tmp_path):
    region = tumor_regions(tmp_path)[0]
    distance = region.read_distance_mm(request(4).box)
    exact = tumor_slab(region, request(4), PLAN)["mask"]
    jittered = tumor_slab(region, request(4, jitter=4.0), PLAN)["mask"]
    changed = distance[exact != jittered]
    assert changed.size > 20
    assert np.abs(changed - PLAN.mask_dilation_mm).max() <= 4.0
