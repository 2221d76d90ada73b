"""What the rows about the feed share: options, samples, and sizes that can be made small to see whether a row works."""


class Run:
    def __init__(self, options, surroundings, samples):
        self.options = options
        self.surroundings = surroundings
        self.samples = samples

    @property
    def program(self):
        return self.options.programs / "wharfinger"

    def example(self, name):
        return str(self.options.programs / "examples" / name)

    def repetitions(self, at_most):
        """Some rows take so long that they are repeated less often than others."""
        return range(min(self.options.repetitions, at_most))

    def sized(self, number, at_least=1):
        """The size of a full measurement, or the share of it that was asked for."""
        return max(round(number * self.options.share), at_least)

    def record(self, name, value):
        self.samples.setdefault(name, []).append(value)

    def record_latencies(self, name, milliseconds):
        """Median, 99th percentile and maximum."""
        self.record(f"{name} p50", quantile(milliseconds, 0.5))
        self.record(f"{name} p99", quantile(milliseconds, 0.99))
        self.record(f"{name} maximum", max(milliseconds))

    def settle(self):
        self.surroundings.settle()


def quantile(values, share):
    ordered = sorted(values)
    return ordered[round(share * (len(ordered) - 1))]
