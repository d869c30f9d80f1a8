"""Inpaint a folder through a running endpoint, several requests at a time."""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Iterator
from dataclasses import asdict

from infill.pipeline import storage
from infill.pipeline.batch_inference.config import BatchInferenceConfig
from infill.pipeline.batch_inference.pairs import Pair
from infill.pipeline.batch_inference.runner import Outcome, failure_of, read_files
from infill.pipeline.errors import ImageError, UserError
from infill.pipeline.images import MaskRule
from infill.pipeline.serving.client import (
    AsyncInpaintClient,
    ClientConfig,
    InpaintClient,
    ServiceError,
)


def endpoint_model(config: BatchInferenceConfig) -> str:
    """Return the label of the version that the endpoint serves.

    Raises:
        UserError: if the endpoint does not answer, or does not serve the model.
    """
    with InpaintClient(_client(config)) as client:
        served = client.models()
    for model in served:
        label = f"{model['name']}@{model['version']}"
        if config.model in ("", model["name"], model["reference"], label):
            return f"{label} ({model['digest'][:12]})"
    there = ", ".join(f"{model['name']}@{model['version']}" for model in served)
    raise UserError(f"{config.endpoint} does not serve {config.model!r}; it serves {there}")


def run_on_endpoint(config: BatchInferenceConfig, pairs: list[Pair]) -> Iterator[Outcome]:
    """Send pairs to the endpoint, write the responses, and yield each as it is done.

    Raises:
        UserError: if the endpoint is down for longer than ``retry_timeout_s``.
    """
    with asyncio.Runner() as runner:
        stream = _send_all(config, pairs)
        try:
            while (done := runner.run(_next(stream))) is not None:
                yield done
        finally:
            runner.run(stream.aclose())


async def _next(stream: AsyncGenerator[Outcome, None]) -> Outcome | None:
    return await anext(stream, None)


async def _send_all(
    config: BatchInferenceConfig, pairs: Iterable[Pair]
) -> AsyncGenerator[Outcome, None]:
    """Yield the outcome of each pair, with at most ``concurrency`` requests at a time."""
    waiting = iter(pairs)
    under_way: set[asyncio.Task[Outcome]] = set()
    async with AsyncInpaintClient(_client(config), config.concurrency) as client:
        try:
            while True:
                while len(under_way) < config.concurrency and (pair := next(waiting, None)):
                    under_way.add(asyncio.create_task(_send(client, config, pair)))
                if not under_way:
                    return
                finished, under_way = await asyncio.wait(
                    under_way, return_when=asyncio.FIRST_COMPLETED
                )
                for task in finished:
                    yield task.result()
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)


async def _send(client: AsyncInpaintClient, config: BatchInferenceConfig, pair: Pair) -> Outcome:
    try:
        image, mask = await asyncio.to_thread(read_files, config, pair)
        answer = await client.inpaint(
            image,
            mask,
            model=config.model,
            mode=config.mode,
            **_mask_fields(config),
            output_format=config.format_of(pair.name),
        )
    except ServiceError as error:
        if not error.status:
            raise UserError(
                f"{config.endpoint} no longer answers ({error.message}); finished images are "
                "kept: run the same command again when it answers"
            ) from error
        return Outcome(name=pair.name, failure=str(error))
    except (ImageError, FileNotFoundError) as error:
        return Outcome(name=pair.name, failure=failure_of(error))
    target = storage.join(config.out, pair.output)
    await asyncio.to_thread(storage.write, target, answer.data)
    return Outcome(name=pair.name, model=answer.model, scale=answer.scale)


def _mask_fields(config: BatchInferenceConfig) -> dict[str, str]:
    """Return the fields of the mask rule; a service of an earlier release knows only polarity."""
    fields = {f"mask_{name}": str(value) for name, value in asdict(config.mask_rule).items()}
    usual = {f"mask_{name}": str(value) for name, value in asdict(MaskRule()).items()}
    return {
        name: value
        for name, value in fields.items()
        if name == "mask_polarity" or value != usual[name]
    }


def _client(config: BatchInferenceConfig) -> ClientConfig:
    try:
        key = storage.read(config.api_key_file).decode().strip() if config.api_key_file else ""
    except FileNotFoundError as error:
        raise UserError(f"api_key_file: there is no file {config.api_key_file}") from error
    return ClientConfig(
        url=config.endpoint, api_key=key, retry_timeout_s=config.retry_timeout_s, batch=True
    )
