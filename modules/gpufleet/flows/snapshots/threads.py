"""Work of a snapshot in several threads."""

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import TypeVar

Result = TypeVar("Result")


def pool_of(threads: int) -> ThreadPoolExecutor:
    """So many threads, named for what they work on."""
    return ThreadPoolExecutor(threads, thread_name_prefix="snapshot")


def in_threads(threads: int, work: Iterable[Callable[[], Result]]) -> list[Result]:
    """Do all of it; where one fails, what has not begun is left, and its error is raised."""
    pool = pool_of(threads)
    try:
        begun: list[Future[Result]] = [pool.submit(each) for each in work]
        done, _ = wait(begun, return_when=FIRST_EXCEPTION)
        return [each.result() for each in done]
    finally:
        pool.shutdown(cancel_futures=True)
