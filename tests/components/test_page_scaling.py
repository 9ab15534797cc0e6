"""The autoscaling policy, within Serve's own autoscaler on a simulated clock: what is asked for, and when.

A replica of the simulation reads a page a second, so that a load of 10 pages a second is the work of ten.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from serve_app.settings import ReplicaRange
from tests.support.autoscaler_simulation import TICK_S, Moment, Simulation

Simulate = Callable[..., Simulation]


@pytest.fixture
def simulate(monkeypatch: pytest.MonkeyPatch) -> Simulate:
    def make(
        *,
        page_s: float = 1.0,
        start_s: float = 3.0,
        load_s: float | None = None,
        room: int = 1000,
        feeds_engines: bool = False,
        **replicas: Any,
    ) -> Simulation:
        wanted = ReplicaRange(**{"min": 1, "max": 100, "downscale_delay_s": 60, **replicas})
        return Simulation(
            monkeypatch,
            wanted,
            page_s=page_s,
            start_s=start_s,
            load_s=load_s,
            room=room,
            feeds_engines=feeds_engines,
        )

    return make


def targets(moments: Sequence[Moment]) -> list[int]:
    return [moment.target for moment in moments]


def changes(moments: Sequence[Moment]) -> int:
    return sum(earlier != later for earlier, later in zip(targets(moments), targets(moments)[1:], strict=False))


def p95(waits: Sequence[float]) -> float:
    return sorted(waits)[int(len(waits) * 0.95)]


def test_a_step_of_callers_gets_replicas_within_seconds_and_gives_them_back(simulate: Simulate) -> None:
    simulation = simulate(page_s=0.3, target_wait_s=1)
    simulation.run(20)
    up = simulation.run(40, simulation.callers(32))
    assert max(targets(up[:10])) > 1, "the first are ordered within ten seconds"
    assert 7 <= up[-1].running <= 11, "about as many as read the pages of all in a second"
    simulation.waits.clear()
    simulation.run(30, simulation.callers(32))
    assert p95(simulation.waits) < 1.5
    down = simulation.run(120)
    assert (down[-1].target, down[-1].running) == (1, 1)


@pytest.mark.parametrize("page_s", [0.3, 1.0, 5.0])
def test_one_caller_who_waits_for_each_page_keeps_one_replica_after_a_burst(simulate: Simulate, page_s: float) -> None:
    """However long its pages are: nobody else's wait for them."""
    simulation = simulate(page_s=page_s)
    simulation.add(100)
    assert max(targets(simulation.run(120, simulation.callers(1)))) > 1
    simulation.run(120, simulation.callers(1))
    assert set(targets(simulation.run(300, simulation.callers(1)))) == {1}


def test_a_job_alone_gets_the_whole_cluster(simulate: Simulate) -> None:
    simulation = simulate(max=32)
    simulation.add(1000)
    moments = simulation.run(60)
    assert max(targets(moments[:10])) == 32
    assert moments[45].pages == 0, "1,000 pages at 32 a second, and the start"


def test_a_page_waits_about_as_long_as_asked_on_a_ramp(simulate: Simulate) -> None:
    simulation = simulate()
    for step in range(30):
        simulation.run(20, simulation.poisson(0.5 + step / 2))
    assert p95(simulation.waits) < 4
    assert simulation.replica_s < 2 * sum(20 * (0.5 + step / 2) for step in range(30)), "at most twice the work"


@pytest.mark.parametrize("load", [0.95, 6.95])
def test_an_hour_of_steady_load_settles(simulate: Simulate, load: float) -> None:
    """Loads that one and seven replicas would be just enough for, were it not for chance."""
    simulation = simulate(downscale_delay_s=30)
    simulation.run(600, simulation.poisson(load))
    simulation.waits.clear()
    steady = simulation.run(3000, simulation.poisson(load))
    assert changes(steady) <= 2, targets(steady)
    assert load < steady[-1].target <= load / 0.7 + 2
    assert p95(simulation.waits) < 2


def test_bursts_do_not_end_replicas_between_them(simulate: Simulate) -> None:
    simulation = simulate(downscale_delay_s=60)
    for _ in range(10):
        simulation.add(30)
        simulation.run(45)
    assert changes(simulation.moments[60:]) <= 3


def test_replicas_that_are_starting_are_not_given_up_while_the_others_do_not_suffice(simulate: Simulate) -> None:
    """Their start takes longer than the delay after which spare replicas stop."""
    simulation = simulate(page_s=0.3, start_s=20, load_s=0, target_wait_s=1, upscale_delay_s=1, downscale_delay_s=3)
    many, few = simulation.callers(20), simulation.callers(8)
    for _ in range(3):
        simulation.run(6, many)
        simulation.run(6, few)
    assert targets(simulation.moments) == sorted(targets(simulation.moments))
    assert targets(simulation.moments)[-1] >= 3


def test_a_slow_start_does_not_order_for_what_is_read_by_then(simulate: Simulate) -> None:
    """A model loads for a minute while pages pile up. Ten replicas keep up; the pile takes some more."""
    simulation = simulate(start_s=60)
    moments = simulation.run(400, simulation.poisson(10))
    assert 10 < max(targets(moments)) <= 20
    assert max(targets(moments[:30])) > 10, "it does not wait for the first to start before it orders more"
    assert moments[-1].pages < 30


def test_a_job_orders_slow_replicas_as_far_as_there_is_work_for_them(simulate: Simulate) -> None:
    """1,000 pages of a second: each of 8 replicas has two minutes of work for its minute of start."""
    simulation = simulate(start_s=60)
    simulation.run(30, simulation.poisson(0.3))
    simulation.add(1000)
    moments = simulation.run(300, simulation.poisson(0.3))
    assert 6 <= max(targets(moments)) <= 12
    assert moments[-1].pages < 10


@pytest.mark.parametrize(("limits", "highest"), [({"max": 4}, 4), ({"max": 32, "room": 4}, 32)])
def test_what_the_cluster_has_no_room_for_changes_nothing_for_those_that_run(
    simulate: Simulate, limits: dict[str, int], highest: int
) -> None:
    simulation = simulate(start_s=10, **limits)
    moments = simulation.run(300, simulation.poisson(10))
    assert moments[-1].running == 4 and max(targets(moments)) == highest
    assert all(earlier <= later for earlier, later in zip(targets(moments), targets(moments)[1:], strict=False))
    down = simulation.run(4000, simulation.poisson(0.2))
    assert down[-1].pages < 5 and down[-1].target <= 2


def test_the_last_replica_goes_when_there_are_no_pages_and_the_first_comes_with_the_next(simulate: Simulate) -> None:
    simulation = simulate(min=0, downscale_delay_s=30)
    assert targets(simulation.run(20))[-1] == 0
    simulation.add(50)
    moments = simulation.run(60)
    assert targets(moments)[3] == 1, "Serve starts the first at once"
    assert max(targets(moments)) > 1 and simulation.pages == 0
    assert targets(simulation.run(120))[-1] == 0


def test_a_job_that_is_held_without_replicas_brings_the_first_and_then_more(simulate: Simulate) -> None:
    """Its caller has only a few pages in flight until there is a replica, which is then told of the others."""
    simulation = simulate(min=0, downscale_delay_s=30)
    simulation.run(20)
    simulation.add(80)
    moments = simulation.run(120)
    assert targets(moments)[3] == 1
    second = next(moment for moment in moments if moment.target > 1)
    assert second.running == 1 and second.pages > 40, "as soon as the first one has told of the pages"
    assert moments[60].pages == 0 and moments[-1].target == 0


def test_the_first_replica_is_not_given_up_while_it_starts(simulate: Simulate) -> None:
    """A node is being added for it, for example. Callers and jobs give up after a while, pause, and try again."""
    simulation = simulate(min=0, start_s=250, downscale_delay_s=5)
    simulation.run(10)
    for _ in range(2):
        simulation.add(8)
        simulation.run(60)
        simulation.give_up()
        simulation.run(60)
    assert set(targets(simulation.moments)[12:]) == {1}
    assert targets(simulation.run(60))[-1] == 0, "it has come, and nobody needs it any more"


def test_a_first_replica_that_does_not_come_is_given_up_when_nobody_waits(simulate: Simulate) -> None:
    simulation = simulate(min=0, room=0, downscale_delay_s=5)
    simulation.add(8)
    simulation.run(60)
    simulation.give_up()
    assert targets(simulation.run(1300))[-1] == 0


def test_no_replica_is_the_target_only_without_pages(simulate: Simulate) -> None:
    simulation = simulate(min=0, downscale_delay_s=1)
    simulation.add(1)
    moments = simulation.run(600, simulation.callers(1))
    assert set(targets(moments)[5:]) == {1}


@pytest.mark.parametrize(("engine_pages_per_s", "rasterizers"), [(12, 1), (27, 2), (50, 3)])
def test_rasterizers_keep_up_with_the_engines_though_only_a_few_pages_are_in_flight(
    simulate: Simulate, engine_pages_per_s: int, rasterizers: int
) -> None:
    """One reads 20 pages a second. 32 are in flight, which never wait for `target_wait_s`, and a document waits behind them."""
    simulation = simulate(page_s=0.05, start_s=1, feeds_engines=True)
    read = 0.0

    def send() -> None:
        nonlocal read
        read = min(read + engine_pages_per_s * TICK_S, simulation.done)
        simulation.add(32 - (simulation.pages + simulation.done - int(read)))

    simulation.run(120, send)
    steady = simulation.run(600, send)
    assert set(targets(steady)) == {rasterizers}


def test_an_hour_of_steady_load_settles_for_rasterizers_too(simulate: Simulate) -> None:
    simulation = simulate(page_s=0.05, feeds_engines=True, downscale_delay_s=30)
    simulation.run(600, simulation.poisson(55))
    assert changes(simulation.run(1200, simulation.poisson(55))) <= 2
