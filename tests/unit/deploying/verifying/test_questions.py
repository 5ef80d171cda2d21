"""What is asked covers the borders, and never finds an earlier run's blocks."""

from __future__ import annotations

import base64
import struct
import zlib

import pytest

from yrpd.deploying.verifying import questions as asking
from yrpd.deploying.verifying.pictures import SIDE, two_pictures

TOKENS = list(range(10_000))


def everything() -> dict[str, asking.Question]:
    return {**asking.text_questions(TOKENS, 128, 4096), **asking.picture_questions()}


def test_prompts_end_around_every_border_of_a_block() -> None:
    lengths = set(asking.lengths(128, 4096).values())
    assert {1, 127, 128, 129, 256, 3000} <= lengths
    assert max(asking.lengths(128, 512).values()) <= 512 - asking.ANSWER_TOKENS


def test_no_two_prompts_begin_alike_but_those_that_shall() -> None:
    prompts = {
        name: tuple(question.body["prompt"][:1])
        for name, question in everything().items()
        if isinstance(question.body.get("prompt"), list)
    }
    starts = [start for name, start in prompts.items() if name != "same beginning"]
    assert len(set(starts)) == len(starts)
    shared = everything()["same beginning"].body["prompt"]
    assert shared[: 3 * 128] == everything()["several blocks"].body["prompt"][: 3 * 128]
    assert shared[3 * 128] != everything()["several blocks"].body["prompt"][3 * 128]


def test_too_little_text_is_refused() -> None:
    with pytest.raises(ValueError, match="too few"):
        asking.text_questions([1, 2, 3], 128, 4096)


def scenes() -> dict[str, asking.Scene]:
    return {scene.name: scene for scene in asking.scenes(everything())}


def shots() -> list[asking.Shot]:
    return [shot for scene in scenes().values() for shot in scene.shots]


def test_scenes_and_shots_have_names_of_their_own() -> None:
    assert len(scenes()) == len(asking.scenes(everything()))
    assert len({shot.name for shot in shots()}) == len(shots())


def test_a_shot_that_finds_blocks_comes_after_the_shot_that_leaves_them() -> None:
    for scene in scenes().values():
        asked: list[asking.Question] = []
        for shot in scene.shots:
            assert shot.repeated == (shot.question in asked), shot.name
            if shot.known_blocks:
                tokens = shot.known_blocks * 128
                assert any(shot.question.body["prompt"][:tokens] == each.body["prompt"][:tokens] for each in asked)
            asked.append(shot.question)


def test_every_question_is_asked() -> None:
    assert {shot.question.name for shot in shots()} == set(everything())


def test_streams_concurrency_and_both_temperatures_of_ttft_are_asked() -> None:
    assert sum(shot.stream and not shot.timed for shot in shots()) >= 2
    assert [len(scene.shots) for scene in scenes().values() if scene.together] == [4]
    assert [sum(shot.timed == kind for shot in shots()) for kind in ("cold", "warm")] == [3, 3]


def test_the_two_pictures_have_one_text_and_one_scene() -> None:
    one, other, _ = scenes()["two pictures"].shots
    contents = [shot.question.body["messages"][0]["content"] for shot in (one, other)]
    assert contents[0][1] == contents[1][1]
    assert contents[0][0] != contents[1][0]


def test_a_model_without_eyes_is_asked_about_no_pictures() -> None:
    names = {scene.name for scene in asking.scenes(asking.text_questions(TOKENS, 128, 4096))}
    assert not [name for name in names if "picture" in name]


def test_a_short_model_is_asked_what_fits() -> None:
    questions = asking.text_questions(TOKENS, 128, 300)
    assert {scene.name for scene in asking.scenes(questions)} >= {"exactly a block", "long, round 1"}


def test_the_pictures_are_pngs_of_one_size() -> None:
    for url in two_pictures():
        data = base64.b64decode(url.removeprefix("data:image/png;base64,"))
        assert data.startswith(b"\x89PNG\r\n\x1a\n")
        assert struct.unpack(">II", data[16:24]) == (SIDE, SIDE)
        start = data.index(b"IDAT")
        length = struct.unpack(">I", data[start - 4 : start])[0]
        assert len(zlib.decompress(data[start + 4 : start + 4 + length])) == SIDE * (3 * SIDE + 1)


def test_questions_are_the_same_every_time() -> None:
    assert asking.digest(everything()) == asking.digest(everything())
    assert asking.digest(everything()) != asking.digest(asking.text_questions(TOKENS, 64, 4096))
