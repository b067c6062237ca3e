"""The cases of every alert, by name and severity, on an embedded site and on a cluster."""

from typing import Final

from tests.alerts import gateway, gpus, ground, pools, promises

_BOTH: Final = promises.CASES | pools.CASES | gateway.CASES | gpus.CASES | ground.CASES
EMBEDDED: Final = _BOTH | pools.EMBEDDED
CLUSTER: Final = _BOTH | promises.ON_CLUSTER | pools.ON_CLUSTER | ground.ON_CLUSTER
