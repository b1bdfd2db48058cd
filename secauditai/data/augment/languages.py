"""What the rewrites need to know of each language: the node types of its grammar and what its rules allow."""

import re
from dataclasses import dataclass

Parents = frozenset[tuple[str, str]]
"""(type of the parent, field that the node is in; "" for any)."""
NOTHING: re.Pattern[str] = re.compile(r"(?!)")
C_TYPES = frozenset({"primitive_type", "sized_type_specifier"})


@dataclass(frozen=True)
class Names:
    """How local variables are declared and used."""

    functions: frozenset[str]
    bindings: dict[str, str]
    """Node that declares a variable, to the field with its name or pattern."""
    scopes: frozenset[str]
    """Nodes that end the life of a variable declared in them."""
    patterns: frozenset[str] = frozenset()
    """Nodes between a declaration and the names that it declares."""
    variable: str = "identifier"
    other_names: frozenset[str] = frozenset()
    """Leaves that stand for something else even when they have a variable's name."""
    members: Parents = frozenset()
    """Where a leaf of the variable type names a member."""
    kept: Parents = frozenset()
    """Where a leaf of the variable type is a name that must stay."""
    opaque: frozenset[str] = frozenset()
    """Nodes that keep all names inside of them."""
    begins: str = "name"
    """Where a variable comes to life: at the `scope`'s start, its `name` or after its `declaration`."""
    reflective: re.Pattern[str] = NOTHING
    """A function with this text may look at the names of its variables."""
    style: str = "snake"


@dataclass(frozen=True)
class Grammar:
    """One language: where statements may be added, and which neutral rewrites are sound."""

    names: Names
    blocks: frozenset[str]
    """Nodes whose children are statements."""
    dead: tuple[str, ...]
    """Code without effect; `{name}` is fresh, a tab stands for one more level."""
    line_comments: tuple[str, ...] = ("// {}",)
    roots: frozenset[str] = frozenset()
    """Outermost nodes in which statements may stand."""
    prologue: frozenset[str] = frozenset()
    """Statements at the top of a file that no code may precede."""
    not_before: frozenset[str] = frozenset()
    """Children of blocks that no code may precede."""
    outside: frozenset[str] = frozenset()
    """Children of blocks that stand in no code, so that a comment or blank line in front of them would be output."""
    wrappers: tuple[tuple[str, str], ...] = (("", ""),)
    """Text around a fragment with which it parses; the first that does is used."""
    integer: str = "number_literal"
    literals: frozenset[str] = frozenset()
    """Operands that may change sides with a variable in a comparison; none where operators can be overloaded."""
    increments: frozenset[str] = frozenset()
    """Forms of an increment that mean the same: `prefix`, `postfix`, `assign`; `typed:` in front needs a known type."""
    number_types: frozenset[str] = frozenset()
    negation: str = "!"
    plain_negation: bool = True
    """Whether `!x` may become `x` and `==` may become `!=` in a condition."""
    bare_conditions: bool = False
    """Whether conditions need no parentheses."""
    braces: bool = True
    """Whether a single statement may stand where a block may, with the same meaning."""
    returns: frozenset[str] | None = None
    """Values of `return` that may be put in parentheses; None for all but `not_returns`."""
    not_returns: frozenset[str] = frozenset({"parenthesized_expression"})
    fixed: frozenset[str] = frozenset()
    """Nodes whose text is left alone, but for names."""
    preprocessor: bool = False


def _parents(text: str) -> Parents:
    pairs = (item.partition(".") for item in text.split())
    return frozenset((parent, name) for parent, _, name in pairs)


def _types(text: str) -> frozenset[str]:
    return frozenset(text.split())


PYTHON = Grammar(
    names=Names(
        functions=_types("function_definition"),
        bindings={
            "assignment": "left",
            "for_statement": "left",
            "for_in_clause": "left",
            "as_pattern": "alias",
            "named_expression": "name",
        },
        scopes=_types("function_definition lambda class_definition"),
        patterns=_types("pattern_list tuple_pattern list_pattern list_splat_pattern as_pattern_target tuple"),
        members=_parents("attribute.attribute keyword_argument.name"),
        kept=_parents("function_definition.name class_definition.name"),
        opaque=_types(
            "parameters lambda_parameters import_statement import_from_statement future_import_statement "
            "global_statement case_pattern type_parameter type_alias_statement"
        ),
        begins="scope",
        reflective=re.compile(
            r"\b(locals|vars|exec|eval|globals|dir)\s*\(|\bexec\s|_getframe|currentframe|\binspect\b"
        ),
    ),
    blocks=_types("block"),
    roots=_types("module"),
    prologue=_types("future_import_statement"),
    not_before=_types("case_clause"),
    line_comments=("# {}",),
    dead=("if False:\n\tpass", "if 0:\n\t{name} = None", "while False:\n\tbreak", "for {name} in ():\n\tpass"),
    integer="integer",
    negation="not",
    bare_conditions=True,
    braces=False,
    fixed=_types("interpolation"),
)
JAVA = Grammar(
    names=Names(
        functions=_types("method_declaration constructor_declaration"),
        bindings={
            "variable_declarator": "name",
            "enhanced_for_statement": "name",
            "resource": "name",
            "catch_formal_parameter": "name",
        },
        scopes=_types(
            "block constructor_body for_statement enhanced_for_statement catch_clause try_with_resources_statement "
            "switch_block lambda_expression"
        ),
        members=_parents("field_access.field method_invocation.name"),
        kept=_parents(
            "labeled_statement. break_statement. continue_statement. instanceof_expression.name "
            "lambda_expression.parameters method_declaration.name constructor_declaration.name"
        ),
        opaque=_types(
            "class_body interface_body enum_body formal_parameters inferred_parameters switch_label method_reference "
            "annotation marker_annotation scoped_identifier record_pattern type_pattern class_declaration"
        ),
        style="camel",
    ),
    blocks=_types("block constructor_body"),
    not_before=_types("explicit_constructor_invocation"),
    line_comments=("// {}", "/* {} */"),
    dead=("if (false) {\n}", "if (false) {\n\tint {name} = 0;\n}", "{\n\tint {name} = 0;\n}"),
    integer="decimal_integer_literal hex_integer_literal",
    literals=_types("decimal_integer_literal null_literal character_literal"),
    increments=_types("prefix postfix typed:assign"),
    number_types=_types("integral_type"),
    fixed=_types("annotation marker_annotation"),
)
JAVASCRIPT = Grammar(
    names=Names(
        functions=_types(
            "function_declaration function_expression generator_function generator_function_declaration "
            "method_definition arrow_function"
        ),
        bindings={"variable_declarator": "name", "for_in_statement": "left", "catch_clause": "parameter"},
        scopes=_types(
            "statement_block for_statement for_in_statement catch_clause switch_body function_declaration "
            "function_expression generator_function generator_function_declaration method_definition arrow_function "
            "class_static_block"
        ),
        patterns=_types(
            "object_pattern pair_pattern array_pattern assignment_pattern object_assignment_pattern rest_pattern"
        ),
        other_names=_types("property_identifier private_property_identifier"),
        kept=_parents(
            "arrow_function.parameter function_declaration.name function_expression.name generator_function.name "
            "generator_function_declaration.name class_declaration.name class.name jsx_opening_element. "
            "jsx_closing_element. jsx_self_closing_element."
        ),
        opaque=_types("formal_parameters"),
        begins="scope",
        reflective=re.compile(r"\beval\b|\bwith\s*\("),
        style="camel",
    ),
    blocks=_types("statement_block"),
    roots=_types("program"),
    not_before=_types("import_statement"),
    line_comments=("// {}", "/* {} */"),
    dead=("if (false) {\n}", "if (false) {\n\tlet {name} = 0;\n}", "{\n\tlet {name} = 0;\n}"),
    wrappers=(("", ""), ("class A {\n", "\n}\n")),
    integer="number",
    literals=_types("number null"),
    increments=_types("prefix postfix"),
    fixed=_types("template_string"),
)
PHP = Grammar(
    names=Names(
        functions=_types("function_definition method_declaration"),
        bindings={"assignment_expression": "left", "foreach_statement": "", "catch_clause": "name"},
        scopes=_types("function_definition method_declaration"),
        patterns=_types("pair"),
        variable="variable_name",
        members=_parents("scoped_property_access_expression.name"),
        opaque=_types("formal_parameters property_declaration global_declaration"),
        begins="scope",
        reflective=re.compile(
            r"(?i)\b(compact|extract|get_defined_vars|(mb_)?parse_str|eval|(include|require)(_once)?|create_function)\b"
            r"|\$\$|\$\{|<<<'"
        ),
    ),
    blocks=_types("compound_statement"),
    roots=_types("program"),
    prologue=_types("namespace_definition declare_statement namespace_use_declaration"),
    not_before=_types("text_interpolation php_end_tag"),
    outside=_types("text php_tag"),
    line_comments=("// {}", "# {}", "/* {} */"),
    dead=("if (false) {\n}", "if (0) {\n\t${name} = 0;\n}", "while (false) {\n}"),
    wrappers=(("", ""), ("<?php\n", ""), ("<?php\nclass A {\n", "\n}\n")),
    integer="integer",
    literals=_types("integer null"),
    increments=_types("prefix postfix"),
    plain_negation=False,
    returns=_types(
        "binary_expression conditional_expression integer string encapsed_string boolean unary_op_expression"
    ),
    fixed=_types("encapsed_string heredoc shell_command_expression attribute_list declare_statement"),
)
GO = Grammar(
    names=Names(
        functions=_types("function_declaration method_declaration"),
        bindings={
            "short_var_declaration": "left",
            "var_spec": "name",
            "range_clause": "left",
            "type_switch_statement": "alias",
            "receive_statement": "left",
        },
        scopes=_types(
            "block for_statement if_statement expression_switch_statement type_switch_statement expression_case "
            "type_case default_case communication_case func_literal"
        ),
        patterns=_types("expression_list"),
        other_names=_types("field_identifier"),
        kept=_parents("const_spec.name"),
        opaque=_types("parameter_list type_parameter_list"),
        begins="declaration",
        style="camel",
    ),
    blocks=_types("block statement_list"),
    not_before=_types("statement_list"),
    line_comments=("// {}",),
    dead=("if false {\n}", "if false {\n\t{name} := 0\n\t_ = {name}\n}", "{\n\t{name} := 0\n\t_ = {name}\n}"),
    integer="int_literal",
    literals=_types("int_literal nil rune_literal"),
    increments=_types("postfix assign"),
    bare_conditions=True,
    braces=False,
    not_returns=_types("parenthesized_expression call_expression"),
)
C_NAMES = Names(
    functions=_types("function_definition"),
    bindings={"declaration": "declarator", "for_range_loop": "declarator"},
    scopes=_types("compound_statement for_statement for_range_loop if_statement while_statement switch_statement"),
    patterns=_types(
        "init_declarator pointer_declarator array_declarator reference_declarator parenthesized_declarator"
    ),
    other_names=_types("field_identifier"),
    members=_parents("qualified_identifier.name"),
    kept=_parents("function_declarator.declarator enumerator.name template_function.name parenthesized_declarator."),
    opaque=_types(
        "parameter_list gnu_asm_expression field_declaration_list enumerator_list attribute_specifier "
        "attribute_declaration structured_binding_declarator offsetof_expression lambda_capture_initializer "
        "template_parameter_list requires_clause preproc_def preproc_function_def preproc_call macro_type_specifier"
    ),
)
C_DEAD = ("if (0) {\n}", "{\n\tint {name} = 0;\n\t(void){name};\n}", "do {\n} while (0);", "while (0) {\n}")
C_FIXED = _types("gnu_asm_expression attribute_specifier attribute_declaration offsetof_expression")
C = Grammar(
    names=C_NAMES,
    blocks=_types("compound_statement"),
    not_before=_types("case_statement declaration type_definition"),
    line_comments=("/* {} */", "// {}"),
    dead=C_DEAD,
    literals=_types("number_literal null char_literal"),
    increments=_types("prefix postfix assign"),
    number_types=C_TYPES,
    fixed=C_FIXED,
    preprocessor=True,
)
CPP = Grammar(
    names=C_NAMES,
    blocks=_types("compound_statement"),
    not_before=_types("case_statement declaration type_definition"),
    line_comments=("// {}", "/* {} */"),
    dead=(*C_DEAD, "if (false) {\n}"),
    increments=_types("typed:prefix typed:postfix typed:assign"),
    number_types=C_TYPES,
    plain_negation=False,
    not_returns=_types("parenthesized_expression identifier initializer_list"),
    fixed=C_FIXED,
    preprocessor=True,
)
GRAMMARS = {"python": PYTHON, "java": JAVA, "c": C, "c++": CPP, "javascript": JAVASCRIPT, "php": PHP, "go": GO}
"""By the language's name in `secauditai.data.syntax`."""
