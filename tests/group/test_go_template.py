"""Templates of scripts: what they can show, and how they say what they can't."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyinfrakit.group.go_template import Context, Template, TemplateError

MEMBER = Context(logical_id="10.0.0.1", group="workers", sequence=3)

RENDERED = {
    "no action": "no action",
    '{{ "a\\tb\\"" }}': 'a\tb"',
    '{{ `a\\b"` }}': 'a\\b"',
    "{{7}} {{ -7 }} {{ true }}": "7 -7 true",
    "{{ INSTANCE_LOGICAL_ID }} {{ INDEX.Group }} {{ INDEX.Sequence }}": "10.0.0.1 workers 3",
    '{{ var "x" "value" }}echo {{ var "x" }}{{ var "y" }}': "echo value",
    "a{{/* a }} comment */}}b": "ab",
    "a {{- /* a comment */ -}} b": "ab",
    "a \n {{- 1 -}} \n b": "a1b",
    "a {{ 1 }} b": "a 1 b",
    "{{ if INSTANCE_LOGICAL_ID }}yes{{ else }}no{{ end }}": "yes",
    "{{ if not INSTANCE_LOGICAL_ID }}yes{{ end }}!": "!",
    '{{ if eq INDEX.Group "x" }}1{{ else if eq INDEX.Sequence 3 }}2{{ else }}3{{ end }}': "2",
    '{{ if and (ne INDEX.Group "x") (or false INDEX.Sequence) }}both{{ end }}': "both",
    "{{ if 0 }}{{ if 1 }}a{{ end }}{{ else }}{{ if 1 }}b{{ end }}{{ end }}": "b",
    '{{ eq 1 "1" }}': "false",
    '{{ or "" "default" }}': "default",
    "{{ (INDEX.Sequence) }}": "3",
    "{ {a} }} %": "{ {a} }} %",
    "#!/bin/sh\nexport X=${Y:-1}\n": "#!/bin/sh\nexport X=${Y:-1}\n",
}

REFUSED = {
    "a\n b {{ nosuchfunc }}": "line 2, column 7: 'nosuchfunc' is not supported; known: INSTANCE_LOGICAL_ID,",
    "{{ .Field }}": "line 1, column 4: '.Field' is not supported",
    "{{ range .Items }}x{{ end }}": "line 1, column 10: '.Items' is not supported",
    '{{ "a" | upper }}': "line 1, column 8: '|' is not supported",
    "{{ $x := 1 }}": "line 1, column 4: '$x' is not supported",
    "{{ 1.5 }}": "is not supported",
    "{{ if 1 }}a": "line 1, column 4: this if has no end",
    "a{{ end }}": "line 1, column 5: there is no if for this end",
    "{{ else }}": "there is no if for this else",
    "{{ if 1 }}{{ else }}{{ else }}{{ end }}": "line 1, column 24: this else follows another else",
    "{{ if 1 }}{{ else with 1 }}{{ end }}": "'else with 1' is not supported: expected else, or else if",
    "{{ if }}a{{ end }}": "expected a value, got nothing",
    "{{ }}": "expected a value, got nothing",
    "a {{ 1": "line 1, column 3: this {{ has no }}",
    '{{ "a }}': "this {{ has no }}, or there is a quote without its end before it",
    "{{ (1 }}": "line 1, column 4: this ( has no )",
    "{{ 1) }}": "there is a ) too many",
    "{{ var }}": "line 1, column 4: var has 1 or 2 arguments, not 0",
    "{{ eq 1 }}": "eq has 2 arguments, not 1",
    "{{ if var }}{{ end }}": "line 1, column 7: var has 1 or 2 arguments, not 0",
    "{{ not var }}": "line 1, column 8: var has 1 or 2 arguments, not 0",
    "{{ 1 2 }}": "line 1, column 6: a value can't have arguments",
    '{{ "\\q" }}': "has an unknown escape",
    "{{ if 1 }}" * 100: "conditions are nested more than 64 deep",
    "{{ " + "(" * 100 + "1" + ")" * 100 + "}}": "parentheses are nested more than 64 deep",
}


@pytest.mark.parametrize("text", RENDERED)
def test_a_template_is_rendered_as_go_does(text: str) -> None:
    """Each supported action is replaced by its value."""
    assert RENDERED[text] == Template(text).render(MEMBER)


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_not_supported_is_named_with_its_place(text: str) -> None:
    """Each action that is not supported raises `TemplateError` with its line, its column and its name."""
    with pytest.raises(TemplateError) as error:
        Template(text)
    assert REFUSED[text] in str(error.value)


def test_a_member_without_a_logical_id_has_an_empty_one() -> None:
    """The logical ID of a member of a group with a size is an empty text, which counts as false."""
    assert "-none" == Template("{{ INSTANCE_LOGICAL_ID }}-{{ if not INSTANCE_LOGICAL_ID }}none{{ end }}").render(
        Context()
    )


@given(st.lists(st.sampled_from([*RENDERED, *REFUSED, "{{", "}}", "-", "(", ")", '"', "`", "/*", "*/", " ", "\n"])))
def test_no_text_breaks_the_parser(parts: list[str]) -> None:
    """A text is rendered, or raises `TemplateError`; no other exception comes out."""
    with contextlib.suppress(TemplateError):
        Template("".join(parts)).render(MEMBER)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("text", ["{{" + " " * 500_000, "{{ " * 200_000, "{{ 1 }}" * 100_000, "{{ " + "( " * 200_000])
def test_a_large_template_takes_no_long_time(text: str) -> None:
    """Half a megabyte of a strange template is read or refused in a time that grows with its length alone."""
    with contextlib.suppress(TemplateError):
        Template(text)
