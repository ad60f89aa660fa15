# The chain: one rule per notebook that configs/<scale>.yml has a section for.
# Digests decide what runs (src/mipo_study/book/plan.py): `make book` hands the steps to
# Snakemake by --forcerun, and dates all that is up to date alike, so that no date counts.
# On a cluster: make book SCALE=full ARGS="--executor slurm ..."
import sys

from mipo_study.book import plan

STEPS = plan.steps(config.get("scale", "laptop"))
plan.check(STEPS)
URGENCY = plan.urgency(STEPS)


rule all:
    input:
        [step.output for step in STEPS.values()],


for step in STEPS.values():

    rule:
        name:
            f"notebook_{step.number}"
        input:
            [STEPS[need].output for need in step.needs],
        output:
            step.output,
        threads: step.threads
        priority: round(100 * URGENCY[step.name])  # what most waits for comes first
        params:
            name=step.name,
            scale=step.scale,
        shell:
            "{sys.executable:q} -m mipo_study.book.run notebook"
            " {params.name:q} --scale {params.scale:q}"
