"""Follows the pods of pools over all sites, for the gateway."""

import threading
from collections.abc import Callable
from typing import Final

from gpufleet.core.gateway.discovery import Found, found_in, told_before
from gpufleet.core.vocabulary import POOL, namespace_of
from gpufleet.edges.kube import Cluster
from gpufleet.spec.errors import Retryable
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.gateway import Replicas

WATCH_FOR_S: Final = 120


class PodBook:
    """The replicas that are known now, by site and pod; for several threads.

    What a site said last stays when its API server is lost, and when this process starts anew:
    whether a replica answers is seen by asking it.

    Args:
        fleet: the environment's.
        told: what the workers were told last; None where they were told nothing yet.
    """

    def __init__(self, fleet: Fleet, told: Replicas | None = None) -> None:
        self._lock = threading.Lock()
        self._found: dict[tuple[str, str], dict[str, Found]] = {}
        for pool, replicas in (told.pools if told else {}).items():
            if pool not in fleet.pools:
                continue
            namespace = namespace_of(fleet.pools[pool].class_)
            for replica in replicas:
                if replica.site in fleet.sites:
                    self.put(replica.site, namespace, replica.uid, told_before(replica, pool))

    def replace(self, site: str, namespace: str, found: dict[str, Found]) -> None:
        """Every replica of a namespace at a site, by uid."""
        with self._lock:
            self._found[site, namespace] = dict(found)

    def put(self, site: str, namespace: str, uid: str, found: Found | None) -> None:
        """One replica, or that a pod is none any more."""
        with self._lock:
            held = self._found.setdefault((site, namespace), {})
            if found is None:
                held.pop(uid, None)
            else:
                held[uid] = found

    def all(self) -> list[tuple[str, Found]]:
        """Every replica with its site."""
        with self._lock:
            return [
                (site, found) for (site, _), held in self._found.items() for found in held.values()
            ]


class PodWatch:
    """Follows the pods of pools in one namespace of one site.

    Args:
        book: what is found goes here.
        site: name of the site.
        namespace: of ours.
        enter: makes the site's cluster; asked again after it was lost, as credentials change.
    """

    def __init__(
        self, book: PodBook, site: str, namespace: str, enter: Callable[[], Cluster]
    ) -> None:
        self._book = book
        self._site, self._namespace = site, namespace
        self._enter = enter
        self._cluster: Cluster | None = None

    def follow(self) -> None:
        """One list and the watch that follows it.

        Raises:
            Retryable: the API server is gone.
            Failed: it refuses, or its context cannot be read.
        """
        try:
            self._follow()
        except BaseException:
            if self._cluster:
                self._cluster.close()
            self._cluster = None
            raise

    def _follow(self) -> None:
        cluster = self._cluster = self._cluster or self._enter()
        path = f"/api/v1/namespaces/{self._namespace}/pods"
        listed = cluster.collection(path, labels=POOL)
        pods = ((pod["metadata"]["uid"], found_in(pod)) for pod in listed["items"])
        self._book.replace(
            self._site, self._namespace, {uid: found for uid, found in pods if found is not None}
        )
        since = listed["metadata"]["resourceVersion"]
        for event in cluster.watch(path, labels=POOL, since=since, for_s=WATCH_FOR_S):
            if event["type"] == "ERROR":
                # The place to go on from is too old: the next list finds everything.
                return
            pod = event["object"]
            found = None if event["type"] == "DELETED" else found_in(pod)
            self._book.put(self._site, self._namespace, pod["metadata"]["uid"], found)


def missing_routes(where: str) -> Retryable:
    """No site's cluster holds what the gateway is told."""
    return Retryable(
        "no cluster that answers holds the gateway's routes", where=where, mend="run ./fleet up"
    )
