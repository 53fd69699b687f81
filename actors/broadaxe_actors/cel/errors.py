"""What goes wrong with an expression. The text names the expression and the cause, and is what users read.

CelError
|-- InvalidExpression     it does not compile: a definition that holds it can be refused
`-- EvaluationFailed      it compiled, and failed on the values that it was given
"""

SHOWN_CHARACTERS = 200


class CelError(Exception):
    """Base of both; `expression` is the whole text of the expression, `cause` what is wrong with it."""

    verb: str

    def __init__(self, expression: str, cause: str) -> None:
        shown = (
            expression if len(expression) <= SHOWN_CHARACTERS else expression[: SHOWN_CHARACTERS - 3] + "..."
        )
        super().__init__(f"CEL expression `{shown}` {self.verb}: {cause}")
        self.expression = expression
        self.cause = cause


class InvalidExpression(CelError):
    """The text is no expression, names what does not exist, or can never give the type that is needed."""

    verb = "does not compile"


class EvaluationFailed(CelError):
    """The expression gave an error, a value of the wrong type, or nothing within its limits."""

    verb = "failed"
