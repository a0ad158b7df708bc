"""Ways to be wrong that suit many laws: the right value with another gradient, or the other way round."""


def doubled(fn):
    """The right values, twice the gradient."""
    def twice(x):
        return 2 * x - x.detach()

    def run(*args):
        got = fn(*args)
        return tuple(map(twice, got)) if isinstance(got, tuple) else twice(got)
    return run


def raised(fn, *which):
    """The right gradients, and one added to the result, or to some of several."""
    def run(*args):
        got = fn(*args)
        return tuple(x + (i in which) for i, x in enumerate(got)) if isinstance(got, tuple) else got + 1
    return run


def cut_off(fn):
    """The right values, and no gradient."""
    def run(*args):
        got = fn(*args)
        return tuple(x.detach() for x in got) if isinstance(got, tuple) else got.detach()
    return run
