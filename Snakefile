# The chain: one rule per notebook that configs/<scale>.yml has a section for.
# A rule's inputs: a marker with the content of its notebook, of the modules it imports and of its config section
# (rewritten only when that changes), and the executed notebooks it takes artifacts from (its nb.need(...) calls).
# Usually started by `make book`. By hand, or on a cluster: snakemake --cores 1 --config scale=full [--executor slurm]
import sys

from mipo import plan

STEPS = plan.steps(config.get("scale", "laptop"))
plan.check(STEPS)
plan.write_markers(STEPS)
URGENCY = plan.urgency(STEPS)


rule all:
    input:
        [step.output for step in STEPS.values()],


for step in STEPS.values():

    rule:
        name:
            f"notebook_{plan.number_of(step.name)}"
        input:
            step.marker,
            [STEPS[need].output for need in step.needs],
        output:
            step.output,
        threads: step.threads
        priority: round(100 * URGENCY[step.name])  # what most waits for comes first
        params:
            name=step.name,
            scale=step.scale,
        shell:
            "{sys.executable} -m mipo_study.book.run notebook {params.name} --scale {params.scale}"
