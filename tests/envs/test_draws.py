import numpy as np

from llmgym.envs.babyai.draws import RandomIntegers


def test_the_integers_are_those_of_numpy_and_the_stream_goes_on() -> None:
    ours, theirs = np.random.default_rng(7), np.random.default_rng(7)
    draw, choose = RandomIntegers(lambda: ours), np.random.default_rng(0)
    for number in range(5000):
        low = int(choose.integers(-5, 20))
        # Ranges near 2**32 are those in which a number is often drawn again.
        size = int(choose.choice([1, 2, 3, 6, 10, 36, 2**31 + 1, 3 * 2**30]))
        found, expected = draw(low, low + size), theirs.integers(low, low + size)
        assert (found, type(found)) == (expected, type(expected))
        if number % 7 == 0:
            assert ours.random() == theirs.random()
    assert ours.bit_generator.state == theirs.bit_generator.state


def test_a_generator_that_takes_the_place_of_another_is_drawn_from() -> None:
    generators = [np.random.default_rng(1)]
    draw = RandomIntegers(lambda: generators[-1])
    draw(0, 10)
    generators.append(np.random.default_rng(2))
    assert draw(0, 1000) == np.random.default_rng(2).integers(0, 1000)
