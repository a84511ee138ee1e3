"""The sections of the report, one file each.

Each file defines a function with the same name as the file, `(context: Context) -> Markup | None`, and the constants `ORDER`
(a whole number by which the sections are sorted) and `TITLE`. The function returns the content below the title. None leaves
the section out; `not_run(reason)` says that something was not measured. The context has one or more evaluations
(`context.evaluations`, `context.names`, `context.comparable`). `fill(TEMPLATE, context, ...)` renders an autoescaped Jinja2
template, in which `n(model, path, spec)` shows a number of an evaluation and `derived(name, value, spec)` a computed one:

    ORDER, TITLE = 95, "Speed"

    def speed(context: Context) -> Markup:
        \"\"\"How long the evaluation took.\"\"\"
        return fill("<p>{{ n(0, 'provenance.seconds', '.0f') }} s</p>", context)

`report(evaluation, path, sections=["verdict", "mylab.sections:speed"])` uses a section of another package.
"""
