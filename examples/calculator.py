"""An environment for training by reinforcement: a calculator to call, and one point for the right result at the end.

Rows look like {"prompt": "What is 12 * 34?", "answer": 408}; give `--environment examples/calculator.py`.
"""

import operator
from typing import Any, Literal

OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


class Calculator:
    def reset(self, answer: float, **columns: Any) -> None:
        self.answer = answer
        self.result = float("nan")

    def calculate(self, left: float, operation: Literal["+", "-", "*", "/"], right: float) -> float:
        """Calculates with two numbers.

        Args:
            left: The first number.
            operation: What to do with them.
            right: The second number.
        """
        self.result = OPERATIONS[operation](left, right)
        return self.result

    def get_reward(self) -> float:
        return float(self.result == self.answer)
