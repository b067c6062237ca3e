"""Steps of an engine, each of which takes longer than the one before by the same time."""

import math
from dataclasses import dataclass
from typing import Final

NEVER: Final = math.inf


@dataclass(eq=False)
class Steps:
    """The steps that run until something changes: an arithmetic series from its begin on."""

    begin_s: float = 0.0
    count: int = 0
    """None run where it is 0."""
    first_s: float = 0.0
    growth_s: float = 0.0
    """That each takes longer than the one before."""

    @property
    def end_s(self) -> float:
        """When the last one ends; `NEVER` where none runs."""
        return self.at_s(self.count) if self.count else NEVER

    def at_s(self, number: int) -> float:
        """When so many of them have ended."""
        return self.begin_s + self.takes_s(number)

    def takes_s(self, number: int) -> float:
        """Seconds that so many of them take."""
        return number * self.first_s + self.growth_s * (0.5 * number * (number - 1))

    def until(self, moment_s: float) -> int:
        """The fewest that end at or after a moment, from 1 to all of them."""
        seconds = moment_s - self.begin_s
        number = max(1, self._guess(seconds))
        while number < self.count and self.takes_s(number) < seconds:
            number += 1
        while number > 1 and self.takes_s(number - 1) >= seconds:
            number -= 1
        return number

    def done(self, now_s: float) -> int:
        """How many have ended; never the last one, whose end is an event of its own."""
        seconds = now_s - self.begin_s
        if not self.count or seconds < self.first_s:
            return 0
        most = self.count - 1
        number = max(0, min(most, self._guess(seconds)))
        while number < most and self.takes_s(number + 1) <= seconds:
            number += 1
        while number > 0 and self.takes_s(number) > seconds:
            number -= 1
        return number

    def drop(self, number: int) -> None:
        """Begin with those that have not ended."""
        self.begin_s = self.at_s(number)
        self.first_s += self.growth_s * number
        self.count -= number

    def _guess(self, seconds: float) -> int:
        """About how many take so long."""
        if seconds <= self.first_s:
            return min(1, self.count)
        if self.growth_s > 0:
            linear = self.first_s / self.growth_s - 0.5
            root = math.sqrt(linear * linear + 2 * seconds / self.growth_s)
            return int(min(root - linear, self.count))
        return int(min(seconds / self.first_s, self.count)) if self.first_s > 0 else self.count
