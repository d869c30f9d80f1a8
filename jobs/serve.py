"""Serve inpainting over HTTP: image and mask in, composite out.

python jobs/serve.py
python jobs/serve.py --model spn@champion
python jobs/serve.py --model runs/train --port 0
curl -F image=@photo.jpg -F mask=@hole.png http://127.0.0.1:8000/v1/inpaint -o filled.png

Without --model it serves `infill-base`, the network that comes with the package. The mask has the
image's size; levels above 127 are the hole. Known pixels come back unchanged. A new champion is
loaded without a pause. Ctrl-C ends the service. /docs of the running service describes the
interface. For a service that a cluster keeps running, `--print-config` prints the configuration
for `serve deploy` or a RayService.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import replace

from infill.pipeline.cluster import connect, require_gpu
from infill.pipeline.config import parse_one, run
from infill.pipeline.job_summary import PHOTO, announce, announce_start, report_results
from infill.pipeline.progress import Progress
from infill.pipeline.serving.config import ServeConfig


def main(words: Sequence[str] | None = None) -> None:
    """Check the models, start Ray and the service, and load each new champion."""
    config = parse_one(ServeConfig, __doc__ or "", words)
    if not config.print_config:
        announce_start("inpainting service: reading the models")
    from infill.pipeline.serving.replica.deployment import (
        choose_port,
        deploy_yaml,
        direct_ingress,
        resolve_models,
        start,
        stop,
        watch,
    )

    if not config.print_config:
        require_gpu(config.use_gpu)
    models = resolve_models(config)
    if config.print_config:
        print(deploy_yaml(config, models), end="")
        return
    port = choose_port(config.host, config.port)
    announce(
        f"starting {', '.join(model.label for model in models)} on port {port} of {config.host}: "
        f"{replicas(config)}"
    )
    with connect(environment=direct_ingress(port), num_cpus=cpus_with_jobs(config)):
        with Progress("starting the service") as progress:
            url = start(replace(config, port=port))
            progress.ending = "started"
        try:
            print(f"serving {', '.join(model.label for model in models)} at {url}", flush=True)
            photo, mask = PHOTO
            key = " -H 'Authorization: Bearer KEY'" if config.keys else ""
            report_results(
                {"page": f"{url}/", "interface": f"{url}/docs"},
                f"curl -F image=@{photo} -F mask=@{mask}{key} {url}/v1/inpaint -o filled.png",
            )
            if not config.keys and config.host not in ("127.0.0.1", "::1", "localhost"):
                print(f"anyone who reaches {config.host} may use it: give --keys to ask for a key")
            watch(config)
        finally:
            stop()


def cpus_with_jobs(config: ServeConfig) -> int | None:
    """Return the CPUs of a local Ray; None for the machine's own number.

    With jobs they are at least the sum of what replicas and jobs reserve, or jobs would wait for
    ever. Replicas and jobs then share the machine's processors.
    """
    if not config.jobs.folder:
        return None
    each = config.num_replicas * config.cpus_per_replica
    actors = config.jobs.num_actors * config.jobs.cpus_per_actor
    return max(os.cpu_count() or 1, math.ceil(each + actors + 1))


def replicas(config: ServeConfig) -> str:
    """Describe the number of replicas and the device of each."""
    count = str(config.num_replicas)
    if config.max_replicas:
        count = f"{config.num_replicas} to {config.max_replicas}"
    noun = "replica" if count == "1" else "replicas"
    device = (
        f"{config.gpus_per_replica:g} GPU each"
        if config.use_gpu
        else f"{config.cpus_per_replica:g} CPU each"
    )
    return f"{count} {noun}, {device}"


if __name__ == "__main__":
    run(main)
