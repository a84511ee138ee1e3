"""The sections of the report, one file each.

A file defines a function of its own name, `(context: Context) -> Markup | None`, and the constants `ORDER` (whole number:
its place among the sections) and `TITLE`. The function returns what goes below the title; None leaves
the section out, while `not_run(reason)` says that something was not measured. The context holds one evaluation or several
(`context.evaluations`, `context.names`, `context.comparable`). `fill(TEMPLATE, context, ...)` renders an autoescaped Jinja2
template in which `n(model, path, spec)` shows a number of an evaluation and `derived(name, value, spec)` a computed one:

    ORDER, TITLE = 95, "Speed"

    def speed(context: Context) -> Markup:
        \"\"\"How long the evaluation took.\"\"\"
        return fill("<p>{{ n(0, 'provenance.seconds', '.0f') }} s</p>", context)

`report(evaluation, path, sections=["verdict", "mylab.sections:speed"])` takes a section from anywhere.
"""
