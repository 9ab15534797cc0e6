"""The steady state of a load of the benchmarks."""

from __future__ import annotations

import pytest

from benchmarks.load import Answer, in_steady_state


def test_engines_that_answer_in_rounds_are_measured_over_whole_rounds() -> None:
    engines, clients, page_s = 4, 8, 6.0
    answers = [Answer(0, 0.0, page_s * (number // engines + 1) + 0.01 * (number % engines), "") for number in range(48)]
    begun, steady = in_steady_state(answers, clients)
    pages_per_s = len(steady) / (max(answer.done for answer in steady) - begun)
    assert len(steady) == 32 and pages_per_s == pytest.approx(engines / page_s)


def test_all_answers_count_if_each_client_sends_one_page() -> None:
    answers = [Answer(0, 1.0, 3.0 + number, "") for number in range(3)]
    assert in_steady_state(answers, 3) == (1.0, answers)
