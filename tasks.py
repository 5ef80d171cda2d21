"""The commands: ``invoke --list`` names them, ``invoke --help TASK`` explains one. All logic is in scripts/yrpd/."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from invoke import Collection, Context, task

_ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(_ROOT / "scripts"))

from yrpd.environment import require_environment_or_exit

require_environment_or_exit(_ROOT)

from yrpd.cli import default_hosts_file, execute, resolve_flavour, resolve_pin

PIN = {"pin": "Table under [pins] of release.toml; YRPD_PIN, else the default pin, when empty."}
FLAVOUR = {"flavour": "npu or cpu; YRPD_FLAVOUR, else npu, when empty."}
HOSTS = {"hosts": "Inventory file; YRPD_HOSTS, else lab.toml (cpu) or hosts.toml (npu), when empty."}
TO = {"to": "An upstream tag of release.toml; to go on or give up, needed only when several rebases are under way."}
ENGINE = {"engine": "What builds: sdk (the classic builder) or buildx; YRPD_ENGINE, else sdk, when empty."}
OPENYUANRONG = {"openyuanrong": "A wheel of openyuanrong to install in place of the locked one."}
RELEASE = {"release": "Name in dist/ or folder of a release; the last image's when empty."}
HOST = {"host": "A host of the inventory; this machine's engine when empty."}
PULL = {
    "pull": "From the registry that it was pushed to, instead of the tarball.",
    "tarball": "From this archive of the image, by another tool, instead of the release's.",
}
TARGETS = {
    "tarball": "A saved image.",
    "image": "An image on the engine, by name or id.",
    "container": "A container on the engine, by name or id.",
}
COMMON = {
    "dry-run": "Print the plan and change nothing.",
    "json": "One JSON document on stdout, all else on stderr.",
    "verbose": "Show details, and a traceback on failure.",
}


def _hosts_file(hosts: str, flavour: str) -> Path:
    return Path(default_hosts_file(hosts, resolve_flavour(flavour)))


@task(
    default=True,
    auto_shortflags=False,
    help={**PIN, **COMMON, "discard": "Give up local edits of the work tree."},
)
def apply(
    _: Context, pin: str = "", discard: bool = False, dry_run: bool = False, json: bool = False, verbose: bool = False
) -> None:
    """Fetch the pinned vllm-ascend, prove it, and apply the patch series to it."""
    from yrpd.patching import commands

    execute(
        lambda project, reporter: commands.patch(
            project=project, reporter=reporter, pin=resolve_pin(pin), discard=discard, dry_run=dry_run
        ),
        as_json=json,
        verbose=verbose,
    )


@task(auto_shortflags=False, help={**PIN, **COMMON})
def check(_: Context, pin: str = "", dry_run: bool = False, json: bool = False, verbose: bool = False) -> None:
    """Prove the series: files, hashes, connector_src, blob ids, resulting tree. Changes nothing."""
    from yrpd.patching import commands

    execute(
        lambda project, reporter: commands.check(project=project, reporter=reporter, pin=resolve_pin(pin)),
        as_json=json,
        verbose=verbose,
    )


@task(auto_shortflags=False, help={**PIN, **COMMON})
def export(_: Context, pin: str = "", dry_run: bool = False, json: bool = False, verbose: bool = False) -> None:
    """Write the series back from connector_src and the work tree; untouched patches keep their bytes."""
    from yrpd.patching import commands

    execute(
        lambda project, reporter: commands.export(
            project=project, reporter=reporter, pin=resolve_pin(pin), dry_run=dry_run
        ),
        as_json=json,
        verbose=verbose,
    )


@task(auto_shortflags=False, help={**PIN, **COMMON})
def lint(_: Context, pin: str = "", dry_run: bool = False, json: bool = False, verbose: bool = False) -> None:
    """Hold the files of the series against the rules; no source and no work tree is needed. Changes nothing."""
    from yrpd.patching import commands

    execute(
        lambda project, reporter: commands.lint(project=project, reporter=reporter, pin=resolve_pin(pin)),
        as_json=json,
        verbose=verbose,
    )


@task(name="status", auto_shortflags=False, help={**PIN, **COMMON})
def standing(_: Context, pin: str = "", dry_run: bool = False, json: bool = False, verbose: bool = False) -> None:
    """Say which side is ahead (pin, series, connector_src, work tree) and which command comes next. Changes nothing."""
    from yrpd.patching import commands

    execute(
        lambda project, reporter: commands.status(project=project, reporter=reporter, pin=resolve_pin(pin)),
        as_json=json,
        verbose=verbose,
    )


@task(auto_shortflags=False, help={**TO, **PIN, **COMMON})
def rebase(
    _: Context, to: str = "", pin: str = "", dry_run: bool = False, json: bool = False, verbose: bool = False
) -> None:
    """Carry the series to another upstream tag; stops where a patch conflicts."""
    from yrpd.patching import moving

    execute(
        lambda project, reporter: moving.begin(
            project=project, reporter=reporter, to=to, pin=resolve_pin(pin), dry_run=dry_run
        ),
        as_json=json,
        verbose=verbose,
    )


@task(name="continue", auto_shortflags=False, help={**TO, **COMMON})
def resume(_: Context, to: str = "", dry_run: bool = False, json: bool = False, verbose: bool = False) -> None:
    """Go on with a rebase after the conflict was resolved and staged, or committed."""
    from yrpd.patching import moving

    execute(
        lambda project, reporter: moving.resume(project=project, reporter=reporter, to=to, dry_run=dry_run),
        as_json=json,
        verbose=verbose,
    )


@task(auto_shortflags=False, help={**TO, **COMMON})
def abort(_: Context, to: str = "", dry_run: bool = False, json: bool = False, verbose: bool = False) -> None:
    """Give a rebase up; everything is as it was before."""
    from yrpd.patching import moving

    execute(
        lambda project, reporter: moving.abort(project=project, reporter=reporter, to=to, dry_run=dry_run),
        as_json=json,
        verbose=verbose,
    )


@task(auto_shortflags=False, help={**PIN, **COMMON})
def matrix(_: Context, pin: str = "", dry_run: bool = False, json: bool = False, verbose: bool = False) -> None:
    """Say which patches fit which upstream tags, without a checkout."""
    from yrpd.patching import moving

    execute(
        lambda project, reporter: moving.fits(project=project, reporter=reporter, pin=resolve_pin(pin)),
        as_json=json,
        verbose=verbose,
    )


@task(auto_shortflags=False, help={**PIN, **COMMON, "rounds": "How often each is run; the median counts."})
def figures(
    _: Context, pin: str = "", rounds: int = 3, dry_run: bool = False, json: bool = False, verbose: bool = False
) -> None:
    """Measure the patch commands beside bare git on the same series."""
    from yrpd.patching import figures as measuring

    execute(
        lambda project, reporter: measuring.measure(
            project=project, reporter=reporter, pin=resolve_pin(pin), rounds=rounds, dry_run=dry_run
        ),
        as_json=json,
        verbose=verbose,
    )


@task(auto_shortflags=False, help={**FLAVOUR, **PIN, **COMMON})
def build(
    _: Context, flavour: str = "", pin: str = "", dry_run: bool = False, json: bool = False, verbose: bool = False
) -> None:
    """Rebuild the patched tree and import the connector out of it."""
    from yrpd.building import commands

    execute(
        lambda project, reporter: commands.build(
            project=project, reporter=reporter, flavour=resolve_flavour(flavour), pin=resolve_pin(pin), dry_run=dry_run
        ),
        as_json=json,
        verbose=verbose,
    )


@task(default=True, auto_shortflags=False, help={**FLAVOUR, **PIN, **ENGINE, **OPENYUANRONG, **COMMON})
def make(
    _: Context,
    flavour: str = "",
    pin: str = "",
    engine: str = "",
    openyuanrong: str = "",
    dry_run: bool = False,
    json: bool = False,
    verbose: bool = False,
) -> None:
    """Make the container image of a flavour."""
    from yrpd.building import commands

    execute(
        lambda project, reporter: commands.image(
            project=project,
            reporter=reporter,
            flavour=resolve_flavour(flavour),
            pin=resolve_pin(pin),
            engine=engine,
            openyuanrong=openyuanrong,
            dry_run=dry_run,
        ),
        as_json=json,
        verbose=verbose,
    )


@task(name="save", auto_shortflags=False, help={**RELEASE, **FLAVOUR, **PIN, **COMMON})
def save_image(
    _: Context,
    release: str = "",
    flavour: str = "",
    pin: str = "",
    dry_run: bool = False,
    json: bool = False,
    verbose: bool = False,
) -> None:
    """Write the image's tarball into its release folder, compressed and hashed on the way."""
    from yrpd.releasing import commands

    execute(
        lambda project, reporter: commands.save(
            project=project,
            reporter=reporter,
            flavour=resolve_flavour(flavour),
            pin=resolve_pin(pin),
            release=release,
            dry_run=dry_run,
        ),
        as_json=json,
        verbose=verbose,
    )


@task(name="load", auto_shortflags=False, help={**RELEASE, **HOST, **HOSTS, **FLAVOUR, **PIN, **COMMON, **PULL})
def load_image(
    _: Context,
    release: str = "",
    host: str = "",
    hosts: str = "",
    pull: bool = False,
    tarball: str = "",
    flavour: str = "",
    pin: str = "",
    dry_run: bool = False,
    json: bool = False,
    verbose: bool = False,
) -> None:
    """Bring a release's image to a host; layers that the host has are not sent."""
    from yrpd.releasing import commands

    execute(
        lambda project, reporter: commands.load(
            project=project,
            reporter=reporter,
            flavour=resolve_flavour(flavour),
            pin=resolve_pin(pin),
            release=release,
            host=host,
            hosts_file=_hosts_file(hosts, flavour),
            pull=pull,
            tarball=tarball,
            dry_run=dry_run,
        ),
        as_json=json,
        verbose=verbose,
    )


@task(
    name="push", auto_shortflags=False, help={**RELEASE, **FLAVOUR, **PIN, **COMMON, "to": "Repository without a tag."}
)
def push_image(
    _: Context,
    to: str = "",
    release: str = "",
    flavour: str = "",
    pin: str = "",
    dry_run: bool = False,
    json: bool = False,
    verbose: bool = False,
) -> None:
    """Push a release's image to a registry, and record the digest that it has there."""
    from yrpd.releasing import commands

    execute(
        lambda project, reporter: commands.push(
            project=project,
            reporter=reporter,
            flavour=resolve_flavour(flavour),
            pin=resolve_pin(pin),
            to=to,
            release=release,
            dry_run=dry_run,
        ),
        as_json=json,
        verbose=verbose,
    )


@task(name="verify", auto_shortflags=False, help={**RELEASE, **HOST, **HOSTS, **FLAVOUR, **PIN, **COMMON, **TARGETS})
def verify_image(
    _: Context,
    release: str = "",
    tarball: str = "",
    image: str = "",
    container: str = "",
    host: str = "",
    hosts: str = "",
    flavour: str = "",
    pin: str = "",
    dry_run: bool = False,
    json: bool = False,
    verbose: bool = False,
) -> None:
    """Prove the chain from the series to a tarball, an image or a container, or name the broken link."""
    from yrpd.releasing import commands

    execute(
        lambda project, reporter: commands.verify(
            project=project,
            reporter=reporter,
            flavour=resolve_flavour(flavour),
            pin=resolve_pin(pin),
            release=release,
            tarball=tarball,
            image=image,
            container=container,
            host=host,
            hosts_file=_hosts_file(hosts, flavour),
            dry_run=dry_run,
        ),
        as_json=json,
        verbose=verbose,
    )


@task(
    name="inspect",
    auto_shortflags=False,
    help={**RELEASE, **FLAVOUR, **PIN, **COMMON, "image": "An image on the engine, by name or id."},
)
def inspect_image(
    _: Context,
    release: str = "",
    image: str = "",
    flavour: str = "",
    pin: str = "",
    dry_run: bool = False,
    json: bool = False,
    verbose: bool = False,
) -> None:
    """Show the layers of a release or an image: size, content, what changes each. Changes nothing."""
    from yrpd.releasing import commands

    execute(
        lambda project, reporter: commands.inspect(
            project=project,
            reporter=reporter,
            flavour=resolve_flavour(flavour),
            pin=resolve_pin(pin),
            release=release,
            image=image,
        ),
        as_json=json,
        verbose=verbose,
    )


@task(name="lock", auto_shortflags=False, help={**FLAVOUR, **PIN, **ENGINE, **COMMON})
def lock_base(
    _: Context,
    flavour: str = "",
    pin: str = "",
    engine: str = "",
    dry_run: bool = False,
    json: bool = False,
    verbose: bool = False,
) -> None:
    """Ask the registry once for the digest of the npu image's base, and record it in release.toml."""
    from yrpd.building import commands

    execute(
        lambda project, reporter: commands.lock(
            project=project,
            reporter=reporter,
            flavour=resolve_flavour(flavour),
            pin=pin,
            engine=engine,
            dry_run=dry_run,
        ),
        as_json=json,
        verbose=verbose,
    )


@task(
    auto_shortflags=False,
    help={
        "hosts": HOSTS["hosts"],
        "disk_gb": "Give each new host a disk of its own of this size; all share the machine's when 0.",
        **COMMON,
    },
)
def up(
    _: Context,
    hosts: str = "lab.toml",
    disk_gb: int = 0,
    dry_run: bool = False,
    json: bool = False,
    verbose: bool = False,
) -> None:
    """Make two or more real Docker hosts on this machine, those that the hosts file names."""
    from yrpd.deploying import lab

    execute(
        lambda project, reporter: lab.up(
            project=project, reporter=reporter, hosts_file=Path(hosts), dry_run=dry_run, disk_gb=disk_gb
        ),
        as_json=json,
        verbose=verbose,
    )


@task(auto_shortflags=False, help={"name": "The lab's name; the shipped lab.toml's when empty.", **COMMON})
def down(_: Context, name: str = "", dry_run: bool = False, json: bool = False, verbose: bool = False) -> None:
    """Remove all that lab.up and lab.builder made, also after a crash."""
    from yrpd.deploying import lab

    execute(
        lambda project, reporter: lab.down(
            project=project, reporter=reporter, dry_run=dry_run, lab_name=name or lab.DEFAULT_LAB
        ),
        as_json=json,
        verbose=verbose,
    )


@task(auto_shortflags=False, help=COMMON)
def builder(_: Context, dry_run: bool = False, json: bool = False, verbose: bool = False) -> None:
    """Start a private Docker engine for building, where none runs."""
    from yrpd.deploying import lab

    execute(
        lambda project, reporter: lab.builder(project=project, reporter=reporter, dry_run=dry_run),
        as_json=json,
        verbose=verbose,
    )


@task(
    auto_shortflags=False,
    help={
        **HOSTS,
        "only": "Regular expression; only faults whose name it is found in.",
        "output": "Markdown file whose table of faults is exchanged, such as docs/faults.md.",
        **COMMON,
    },
)
def faults(
    _: Context,
    hosts: str = "",
    flavour: str = "",
    pin: str = "",
    only: str = "",
    output: str = "",
    dry_run: bool = False,
    json: bool = False,
    verbose: bool = False,
) -> None:
    """Make one fault after the other happen to the lab's deployment, under load, and check every answer."""
    from yrpd.deploying.lab.faults.commands import faults as run

    execute(
        lambda project, reporter: run(
            project=project,
            reporter=reporter,
            hosts_file=_hosts_file(hosts, flavour),
            flavour=resolve_flavour(flavour),
            pin=resolve_pin(pin),
            only=only,
            output=output,
            dry_run=dry_run,
        ),
        as_json=json,
        verbose=verbose,
    )


def _deploying(name: str, hosts: str, flavour: str, pin: str, json: bool, verbose: bool, **options: Any) -> None:
    from yrpd.deploying import commands

    execute(
        lambda project, reporter: getattr(commands, name)(
            project=project,
            reporter=reporter,
            hosts_file=_hosts_file(hosts, flavour),
            flavour=resolve_flavour(flavour),
            pin=resolve_pin(pin),
            **options,
        ),
        as_json=json,
        verbose=verbose,
    )


@task(default=True, auto_shortflags=False, help={**HOSTS, **FLAVOUR, **PIN, **COMMON})
def rollout(
    _: Context,
    hosts: str = "",
    flavour: str = "",
    pin: str = "",
    dry_run: bool = False,
    json: bool = False,
    verbose: bool = False,
) -> None:
    """Start openYuanrong, prefill, decode and the router on the hosts."""
    _deploying("deploy", hosts, flavour, pin, json, verbose, dry_run=dry_run)


@task(
    auto_shortflags=False,
    help={
        **HOSTS,
        **FLAVOUR,
        **PIN,
        **COMMON,
        "format": "table, run (docker lines), json, compose (a file per host), kubernetes or monitoring.",
        "output": "Folder that gets the files; printed when empty.",
    },
)
def plan(
    _: Context,
    hosts: str = "",
    flavour: str = "",
    pin: str = "",
    format: str = "table",
    output: str = "",
    dry_run: bool = False,
    json: bool = False,
    verbose: bool = False,
) -> None:
    """Print the containers that deploy would start. Asks no host."""
    _deploying("plan", hosts, flavour, pin, json, verbose, plan_format=format, output=output, dry_run=dry_run)


@task(auto_shortflags=False, help={**HOSTS, **FLAVOUR, **PIN, **COMMON})
def status(
    _: Context,
    hosts: str = "",
    flavour: str = "",
    pin: str = "",
    dry_run: bool = False,
    json: bool = False,
    verbose: bool = False,
) -> None:
    """Say for each container: role, health, and whether it runs what this checkout would run."""
    _deploying("status", hosts, flavour, pin, json, verbose)


@task(
    auto_shortflags=False,
    help={
        **HOSTS,
        **FLAVOUR,
        **PIN,
        **COMMON,
        "tail": "Lines of each container.",
        "role": "Only these roles, separated by commas: etcd, worker, prefill, decode, router.",
        "grep": "Only lines in which this regular expression is found.",
        "follow": "Print new lines as they come.",
        "save": "Write whole logs and the hosts' records to this .tar.gz.",
    },
)
def logs(
    _: Context,
    hosts: str = "",
    flavour: str = "",
    pin: str = "",
    tail: int = 100,
    role: str = "",
    grep: str = "",
    follow: bool = False,
    save: str = "",
    dry_run: bool = False,
    json: bool = False,
    verbose: bool = False,
) -> None:
    """Print the last log lines of every container."""
    _deploying("logs", hosts, flavour, pin, json, verbose, tail=tail, role=role, grep=grep, follow=follow, save=save)


@task(auto_shortflags=False, help={**HOSTS, **FLAVOUR, **PIN, **COMMON})
def rollback(
    _: Context,
    hosts: str = "",
    flavour: str = "",
    pin: str = "",
    dry_run: bool = False,
    json: bool = False,
    verbose: bool = False,
) -> None:
    """Bring the hosts back to the release before the present one."""
    _deploying("rollback", hosts, flavour, pin, json, verbose, dry_run=dry_run)


@task(auto_shortflags=False, help={**HOSTS, **FLAVOUR, **PIN, **COMMON})
def verify(
    _: Context,
    hosts: str = "",
    flavour: str = "",
    pin: str = "",
    dry_run: bool = False,
    json: bool = False,
    verbose: bool = False,
) -> None:
    """Prove the endpoint's answers equal to plain vLLM's, and that P's blocks were loaded by D."""
    _deploying("verify", hosts, flavour, pin, json, verbose, dry_run=dry_run)


@task(auto_shortflags=False, help={**HOSTS, **FLAVOUR, **PIN, **COMMON})
def clean(
    _: Context,
    hosts: str = "",
    flavour: str = "",
    pin: str = "",
    dry_run: bool = False,
    json: bool = False,
    verbose: bool = False,
) -> None:
    """Stop and remove everything that deploy started."""
    _deploying("clean", hosts, flavour, pin, json, verbose, dry_run=dry_run)


@task(
    auto_shortflags=False,
    help={
        **COMMON,
        "shape": "grouped (the figure's), tutorial, document, multi-turn, repeated, unique or images.",
        "length": "Tokens of the longest prompt.",
        "groups": "Groups, documents, conversations, images or different prompts; 0: the shape's own number.",
        "per-group": "Prompts of each; 0: the shape's own number.",
        "share": "Share of a prompt that its group has in common; 0: the shape's own.",
        "seed": "Decides text and order.",
        "salt": "Sets the same dataset apart from itself: nothing of another salt is found again.",
        "output": "Tokens to generate for each prompt.",
        "vllm-seed": "The --seed that vllm bench serve will be given.",
        "model": "Model folder, for its tokenizer and sizes; build/models/qwen2 when empty.",
        "out": "Folder for the files; below build/bench/datasets when empty.",
        "device-tokens": "Device cache, in tokens, that the expected hit rate is for.",
        "block-size": "Tokens of a KV block.",
        "export": "Also for these, with commas: aiperf, guidellm.",
    },
)
def dataset(
    _: Context,
    shape: str = "grouped",
    length: int = 1024,
    groups: int = 0,
    per_group: int = 0,
    share: float = 0.0,
    seed: int = 0,
    salt: str = "",
    output: int = 2,
    vllm_seed: int = 0,
    model: str = "",
    out: str = "",
    device_tokens: int = 265_000,
    block_size: int = 128,
    export: str = "",
    dry_run: bool = False,
    json: bool = False,
    verbose: bool = False,
) -> None:
    """Make prompts whose reuse is known, token by token, with their manifest."""
    from yrpd.bench.dataset import commands

    execute(
        lambda project, reporter: commands.dataset(
            project,
            reporter,
            commands.Wanted(shape, length, groups, per_group, share, seed, salt, output, vllm_seed),
            model,
            out,
            device_tokens,
            block_size,
            export,
            dry_run,
        ),
        as_json=json,
        verbose=verbose,
    )


@task(
    default=True,
    auto_shortflags=False,
    help={
        **COMMON,
        "profile": "quick or full; smoke is for the tests.",
        "model": "Model folder; build/models/qwen2 when empty.",
        "fresh": "Throw away what an earlier run of the profile measured.",
    },
)
def measure(
    _: Context,
    profile: str = "quick",
    model: str = "",
    fresh: bool = False,
    dry_run: bool = False,
    json: bool = False,
    verbose: bool = False,
) -> None:
    """Run vllm bench serve on plain vLLM and ours in alternation; go on where an earlier run was cut."""
    from yrpd.bench.runs import commands

    execute(
        lambda project, reporter: commands.bench(project, reporter, profile, model, fresh, dry_run),
        as_json=json,
        verbose=verbose,
    )


@task(
    auto_shortflags=False,
    help={
        **COMMON,
        "run": "Folder of a run; the newest when empty.",
        "out": "Folder for the report.",
        "against": "A stored report (latest.json); figures that became worse are exit code 9.",
    },
)
def report(
    _: Context,
    run: str = "",
    out: str = "docs/bench",
    against: str = "",
    dry_run: bool = False,
    json: bool = False,
    verbose: bool = False,
) -> None:
    """Compute tables and figure anew from a run's raw results."""
    from yrpd.bench.reporting import commands

    execute(
        lambda project, reporter: commands.report(project, reporter, run, out, against, dry_run),
        as_json=json,
        verbose=verbose,
    )


ns = Collection(
    build,
    Collection("bench", measure, dataset, report),
    Collection("patch", apply, check, export, lint, standing, rebase, resume, abort, matrix, figures),
    Collection("image", make, lock_base, save_image, load_image, push_image, verify_image, inspect_image),
    Collection("lab", up, down, builder, faults),
    Collection("deploy", rollout, plan, status, logs, verify, rollback, clean),
)
