"""How fast an endpoint answers, measured under a declared load."""

from invoke import Context

from gpufleet.tasks.command import (
    APPLY_HELP,
    FLEET_HELP,
    JSON_HELP,
    command,
    print_json,
    workspace,
)


@command(
    {
        "url": "Base address of an OpenAI endpoint. Default: the embedded gateway.",
        "pool": "Instead: one ready replica of this pool, asked itself.",
        "site": "Of the pool, where it stands at several.",
        "use-case": "Its lengths, rate and targets; also the model that is asked for.",
        "model": "The model that is asked for. Default: the use case, or the pool's revision.",
        "rate": "Requests a second, whatever is answered. Default: the use case's.",
        "duration-s": "How long requests are sent, or each level is held. Default: 60, or 20.",
        "arrivals": "poisson (default), constant, gamma:DISPERSION, or trace:FILE.csv.",
        "concurrency": "Instead of a rate: numbers of requests in flight, such as 1,4,16.",
        "prompt-tokens": "MEAN or MEAN:P95. Default: 500, or the use case's.",
        "output-tokens": "MEAN or MEAN:P95. Default: 100, or the use case's.",
        "stream-share": "Share of the requests whose answer is streamed. Default: 0.33.",
        "slo-p95-s": "Target of 95 of 100 whole answers. Default: the use case's.",
        "slo-ttft-s": "Target of 95 of 100 first tokens. Default: the use case's.",
        "timeout-s": "Longest time of a request. Default: 600.",
        "seed": "Of arrivals, lengths and prompts. Default: 1.",
        "key-file": "File with the API key. Default: the variable GPUFLEET_API_KEY.",
        "ca-file": "Authority of the endpoint's certificate.",
        "whole-lengths": "Ask for answers of just the wanted length; vLLM knows how.",
        "requests-file": "Also write every request into this file, for `vegeta report`.",
        "save": "Name of a measurement that plan.capacity then uses; kept with --apply.",
        "apply": APPLY_HELP,
        "fleet": FLEET_HELP,
        "json": JSON_HELP,
    }
)
def serve(
    _: Context,
    url: str = "",
    pool: str = "",
    site: str = "",
    use_case: str = "",
    model: str = "",
    rate: str = "",
    duration_s: str = "",
    arrivals: str = "",
    concurrency: str = "",
    prompt_tokens: str = "",
    output_tokens: str = "",
    stream_share: str = "",
    slo_p95_s: str = "",
    slo_ttft_s: str = "",
    timeout_s: str = "",
    seed: str = "",
    key_file: str = "",
    ca_file: str = "",
    whole_lengths: bool = False,
    requests_file: str = "",
    save: str = "",
    apply: bool = False,
    fleet: str = "",
    json: bool = False,
) -> None:
    """Load an endpoint: TTFT, time per token, whole answers, throughput, goodput, each apart.

    Example: ./fleet bench.serve --use-case support-chat --rate 50 --key-file key.txt
    Example: ./fleet bench.serve --url http://127.0.0.1:8000 --model llama-3.1-8b --rate 50
    Example: ./fleet bench.serve --pool chat --concurrency 1,4,16 --save chat-h100 --apply
    """
    from invoke.exceptions import Exit

    from gpufleet.flows import serving_bench
    from gpufleet.spec.errors import EXIT_INTERRUPTED, EXIT_TARGET_MISSED
    from gpufleet.tasks import bench_view

    here = workspace()
    asked = serving_bench.Asked(
        url=url,
        pool=pool,
        site=site,
        use_case=use_case,
        model=model,
        rate=rate,
        duration_s=duration_s,
        arrivals=arrivals,
        concurrency=concurrency,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        stream_share=stream_share,
        slo_p95_s=slo_p95_s,
        slo_ttft_s=slo_ttft_s,
        timeout_s=timeout_s,
        seed=seed,
        key_file=key_file,
        ca_file=ca_file,
        whole_lengths=whole_lengths,
        requests_file=requests_file,
        save=save,
    )
    file = here.find_fleet(fleet or None) if use_case or pool or save or fleet else None
    order = serving_bench.order_of(here, file, asked)
    with bench_view.LoadView() as view:
        report = serving_bench.run_load(order, view)
    saved = None
    if save and file and not report.interrupted:
        saved = serving_bench.save(order, report, file, apply=apply)
    if json:
        print_json({**report.model_dump(), "saved": saved.model_dump() if saved else None})
    else:
        bench_view.show_bench(report)
        if saved:
            bench_view.show_saved(saved)
    if report.interrupted:
        raise Exit(code=EXIT_INTERRUPTED)
    if json and not (report.kept_up and report.slo_kept is not False):
        raise Exit(code=EXIT_TARGET_MISSED)
    serving_bench.demand_kept(report)
