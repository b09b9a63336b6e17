"""`minimax-m1 serve`: the HTTP server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from minimax_m1.cli.options import Device, Dtype, MaxModelLen, Model, Quantization
from minimax_m1.errors import RequestError

if TYPE_CHECKING:
    import socket

app = typer.Typer()

_LEVELS = ("debug", "info", "warning", "error")


@app.command()
def serve(
    model: Model = "nano",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8000,
    max_model_len: MaxModelLen = None,
    name: Annotated[str | None, typer.Option("--served-name", help="What clients call the model.")] = None,
    dtype: Dtype = "auto",
    device: Device = "cpu",
    quantization: Quantization = None,
    body_limit: Annotated[int, typer.Option(min=1, help="Most MiB of one request's body.")] = 64,
    max_num_seqs: Annotated[
        int | None, typer.Option(help="Most requests that run at once; more wait. Default: 32, on a GPU 64.")
    ] = None,
    max_num_batched_tokens: Annotated[
        int | None,
        typer.Option(
            help="Most tokens a step while a reply is under way: fewer make streams smoother. "
            "Default: 512, on a GPU 4096."
        ),
    ] = None,
    kv_cache_gib: Annotated[
        float, typer.Option(min=0, help="Room for keys and values; 0: 1, or what one sequence of full length needs.")
    ] = 0,
    checkpoint_gib: Annotated[
        float, typer.Option(min=0, help="Room for the states kept of what was read; 0: 0.5, or what 32 of them need.")
    ] = 0,
    enforce_eager: Annotated[
        bool, typer.Option("--enforce-eager", help="On a GPU, no CUDA graphs: steps are launched kernel by kernel.")
    ] = False,
    prefix_caching: Annotated[bool, typer.Option(help="Keep what was read, and do not read it again.")] = True,
    max_queue: Annotated[int, typer.Option(min=0, help="Most requests that wait; more get 503.")] = 1024,
    max_requests: Annotated[int, typer.Option(min=1, help="Most HTTP requests at once; more get 429.")] = 1024,
    log_level: Annotated[str, typer.Option(help="Of the log on stderr: debug, info, warning or error.")] = "info",
    home: Annotated[
        Path | None,
        typer.Option(help="Folder of what outlives the server: contexts, files, batches. Default: MINIMAX_M1_HOME."),
    ] = None,
    drain: Annotated[float, typer.Option(min=0, help="Seconds that open requests have once the server stops.")] = 30,
) -> None:
    """Answer over HTTP, natively and as OpenAI does."""
    try:
        import uvicorn  # noqa: F401
    except ImportError:
        raise RequestError("serving needs the extra: pip install 'minimax-m1[serve]'") from None
    from minimax_m1.engine.config import EngineConfig
    from minimax_m1.location import home_folder, locate
    from minimax_m1.serve.access import configure_logging
    from minimax_m1.serve.app import create_app
    from minimax_m1.serve.bridge import Loaded
    from minimax_m1.serve.draining import draining_server

    asked = {"max_num_seqs": max_num_seqs, "max_num_batched_tokens": max_num_batched_tokens}
    config = EngineConfig.on(
        device.split(":")[0],
        **{name: value for name, value in asked.items() if value is not None},
        kv_cache_bytes=round(kv_cache_gib * 2**30),
        checkpoint_bytes=round(checkpoint_gib * 2**30),
        enable_prefix_caching=prefix_caching,
        enforce_eager=enforce_eager,
        max_queue=max_queue,
    )
    folder = locate(model)
    served = name or (folder.resolve().name if Path(model).is_dir() else model)
    listener = _listener(host, port)
    bound: tuple[str, int] = listener.getsockname()[:2]
    failures: list[Exception] = []

    def load() -> Loaded:
        from minimax_m1.serve.loading import load as load_model

        try:
            return load_model(
                folder,
                dtype=dtype,
                device=device,
                max_model_len=max_model_len,
                quantization=quantization,
                config=config,
            )
        except Exception as error:  # carried to the main thread, which ends the program with it
            failures.append(error)
            server.should_exit = True
            raise

    def ready(loaded: Loaded) -> None:
        _announce(*bound, served, loaded.engine.max_model_len, loaded.kernels)

    if log_level not in _LEVELS:
        raise RequestError(f"--log-level is one of {', '.join(_LEVELS)}, got {log_level!r}", param="log_level")
    configure_logging(log_level)
    application = create_app(
        load,
        name=served,
        home=home or home_folder(),
        ready=ready,
        body_limit=body_limit * 2**20,
        max_requests=max_requests,
    )
    server = draining_server(application, drain)
    with listener:
        server.run(sockets=[listener])
    if failures:
        raise failures[0]


def _listener(host: str, port: int) -> socket.socket:
    """A bound socket, so that a port in use is known before a model is loaded."""
    import socket

    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address, family=family)
    except OSError as error:
        raise RequestError(f"cannot listen on {host} port {port}: {error.strerror}", param="port") from None


def _announce(host: str, port: int, name: str, max_model_len: int, kernels: str) -> None:
    """Says where the server is, with a line that works as it stands."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    body = json.dumps({"input": "What is 17 + 25?"})
    typer.echo(f"{name} answers at {address} (up to {max_model_len} tokens; kernels: {kernels}). Try:")
    typer.echo(f"curl {address}/v1/minimax-m1/generate -H 'content-type: application/json' -d '{body}'")
