"""Formulas found by genetic programming, with Operon (Burlacu, Kronberger and Kommenda, GECCO 2020), for functions that
no formula of the library meets: products and quotients of curves, and sums of those.

One thread, one seed, and a number of evaluations, never a clock: equal arguments give equal formulas, bit for bit. What
Operon finds is a front of formulas, each the best of its length; their constants are fitted and made plain afterwards,
like those of the library (`formula_search.py`). (docs/decisions/0030-a-second-formula-search.md)
"""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import sympy

from bimt_engine.analysis.readout.form import (
    FUNCTIONS,
    Column,
    Columns,
    Form,
    Tree,
    constant,
    number,
    plus,
    power,
    times,
    variable,
)

_ALGEBRA = "Add Sub Mul Div Sqrt Square Constant Variable"
# Searched one after the other: with curves at hand, a fraction is found as a curve of curves that is nearly as good.
SYMBOL_SETS = {"algebraic": _ALGEBRA, "transcendental": f"{_ALGEBRA} Sin Cos Tanh Exp Log"}
POPULATION = 500
GENERATIONS = 200
EVALUATIONS = 250_000  # of one search, each step of a fit counted
FITTING_STEPS = 5  # of each formula's constants, at each evaluation
MAX_LENGTH = 25  # nodes of a formula, weights of inputs not counted
MAX_DEPTH = 8
FIRST_LENGTH = 10  # of the formulas that it begins with, at most
TOURNAMENT = 5  # that parents are the best of
MAX_ROWS = 100  # that the formulas are evaluated at
MAX_READ = 5  # numbers that a function may depend on
MAX_FORMS = 12  # of the front, the shortest first, that are passed on
MISSED = "pyoperon is not installed, so formulas beyond the library are not sought"


def is_available() -> bool:
    """Whether Operon's Python package is installed: it has no wheels for some platforms."""
    try:
        return importlib.util.find_spec("pyoperon") is not None
    except ValueError:  # a module of this name is there, but not as a package that was installed
        return False


def evolved_forms(numbers: Columns, values: Column, *, symbols: str, seed: int) -> list[Form]:
    """Formulas of these numbers that meet the values, from short to long, constants fitted; empty without Operon.

    numbers   (N, 1 to MAX_READ), in any units: they are measured in their own root mean squares.
    symbols   the operations that a formula may have, one of SYMBOL_SETS.
    """
    if not is_available() or not 1 <= numbers.shape[1] <= MAX_READ:
        return []
    size = np.sqrt((numbers**2).mean(axis=0))
    size[size == 0] = 1.0
    spread = float(values.std()) or 1.0
    rows = np.unique(np.linspace(0, len(values) - 1, min(len(values), MAX_ROWS)).astype(int))
    inputs = [sympy.Symbol(f"u{i}", real=True) for i in range(numbers.shape[1])]
    places = [symbol / float(scale) for symbol, scale in zip(inputs, size, strict=True)]
    forms: dict[Tree, Form] = {}
    for nodes, variables in _front((numbers / size)[rows], values[rows] / spread, symbols, seed):
        form = form_of(spread * expression_of(nodes, dict(zip(variables, places, strict=True))), inputs)
        if form is not None:
            forms.setdefault(form.tree, form.refitted(numbers, values))
    return list(forms.values())[:MAX_FORMS]


def _front(numbers: Columns, values: Column, symbols: str, seed: int) -> list[tuple[list[Any], list[int]]]:
    """For every length the best tree that a search found, the shortest first: its nodes, and the code of each input.

    Two objectives, R² and length, by NSGA-II. The objects of Operon hold one another by address: all of them must live
    until the search is over, which is why each has a name here.
    """
    import pyoperon

    data = pyoperon.Dataset(np.asfortranarray(np.column_stack((numbers, values))))
    *inputs, target = sorted(data.Variables, key=lambda variable: variable.Index)
    codes = [variable.Hash for variable in inputs]
    problem = pyoperon.Problem(data)
    problem.TrainingRange, problem.TestRange = pyoperon.Range(0, data.Rows), pyoperon.Range(data.Rows - 1, data.Rows)
    problem.Target, problem.InputHashes = target, codes
    problem.ConfigurePrimitiveSet(sum(int(getattr(pyoperon.NodeType, name)) for name in symbols.split()))
    known = problem.PrimitiveSet

    creator = pyoperon.BalancedTreeCreator(known, codes, 0.0)
    coefficients = pyoperon.NormalCoefficientInitializer()
    coefficients.ParameterizeDistribution(0, 1)
    first = pyoperon.UniformLengthTreeInitializer(creator)
    first.ParameterizeDistribution(known.FunctionArityLimits()[0] + 1, FIRST_LENGTH)
    first.MinDepth, first.MaxDepth = 1, 1000

    table = pyoperon.DispatchTable()
    fit, length = pyoperon.Evaluator(problem, table, pyoperon.R2(), True), pyoperon.LengthEvaluator(problem)
    evaluator = pyoperon.MultiEvaluator(problem)
    for objective in (fit, length):
        objective.Budget = EVALUATIONS
        evaluator.Add(objective)
    evaluator.Budget = EVALUATIONS

    comparison = pyoperon.CrowdedComparison()
    selector = pyoperon.TournamentSelector(comparison)
    selector.TournamentSize = TOURNAMENT
    points = [pyoperon.NormalOnePointMutation(), pyoperon.NormalMultiPointMutation()]
    for point in points:
        point.ParameterizeDistribution(0, 1)
    mutations = [
        *points,
        pyoperon.ChangeVariableMutation(codes),
        pyoperon.ChangeFunctionMutation(known),
        pyoperon.ReplaceSubtreeMutation(creator, coefficients, MAX_DEPTH, MAX_LENGTH),
        pyoperon.InsertSubtreeMutation(creator, coefficients, MAX_DEPTH, MAX_LENGTH),
        pyoperon.RemoveSubtreeMutation(known),
    ]
    mutation = pyoperon.MultiMutation()
    for one in mutations:
        mutation.Add(one, 1.0)
    crossover = pyoperon.SubtreeCrossover(0.9, MAX_DEPTH, MAX_LENGTH)
    optimiser = pyoperon.LMOptimizer(table, problem, FITTING_STEPS, 0)
    fitting = pyoperon.CoefficientOptimizer(optimiser)
    generator = pyoperon.BasicOffspringGenerator(evaluator, crossover, mutation, selector, selector, fitting)
    reinserter, sorter = pyoperon.KeepBestReinserter(comparison), pyoperon.RankSorter()
    settings = pyoperon.GeneticAlgorithmConfig(
        generations=GENERATIONS,
        max_evaluations=EVALUATIONS,
        local_iterations=FITTING_STEPS,
        population_size=POPULATION,
        pool_size=POPULATION,
        p_crossover=1.0,
        p_mutation=0.25,
        p_local=1.0,
        p_lamarck=1.0,
        epsilon=1e-5,
        seed=seed,
        max_time=sys.maxsize,  # seconds: the evaluations are the limit
    )
    search = pyoperon.NSGA2Algorithm(settings, problem, first, coefficients, generator, reinserter, sorter)
    search.Run(pyoperon.RandomGenerator(np.uint64(seed)), None, 1, False)
    trees = sorted((one.Genotype for one in search.BestFront), key=lambda tree: tree.Length)
    return [(tree.Nodes, codes) for tree in trees]


# --- Operon's trees -> sympy ------------------------------------------------------------------------

_OPERATIONS: dict[str, Callable[..., sympy.Expr]] = {
    "Add": sympy.Add,
    "Mul": sympy.Mul,
    "Sub": lambda first, *rest: first - sympy.Add(*rest) if rest else -first,
    "Div": lambda first, *rest: first / sympy.Mul(*rest) if rest else 1 / first,
    "Sin": sympy.sin,
    "Cos": sympy.cos,
    "Tanh": sympy.tanh,
    "Exp": sympy.exp,
    "Log": sympy.log,
    "Sqrt": sympy.sqrt,
    "Square": lambda argument: argument**2,
}


def expression_of(nodes: Sequence[Any], places: dict[int, sympy.Expr]) -> sympy.Expr:
    """The expression of a tree in postfix order; the first argument of an operation stands next to it.

    places   the hash of each variable -> what it stands for.
    """
    stack: list[sympy.Expr] = []
    for node in nodes:
        if node.IsVariable:
            stack.append(sympy.Float(node.Value) * places[node.HashValue])
        elif node.IsConstant:
            stack.append(sympy.Float(node.Value))
        else:
            stack.append(_OPERATIONS[node.Type.name](*(stack.pop() for _ in range(node.Arity))))
    return stack.pop()


# --- sympy -> a form without idle constants ---------------------------------------------------------


def form_of(expression: sympy.Expr, symbols: Sequence[sympy.Symbol]) -> Form | None:
    """The expression as a form, every number that is no small integer an open constant; None where it cannot be one.

    Factors are taken out of sums first, so that no two constants do the same: a·(b·x + c·y)² is d·(x + e·y)².
    """
    expression = _normal(expression)
    if expression.has(sympy.zoo, sympy.nan, sympy.oo, -sympy.oo, sympy.I):
        return None
    constants: list[float] = []
    order = {symbol: i for i, symbol in enumerate(symbols)}
    terms = sympy.Add.make_args(expression)
    try:
        inner = [_tree(term, order, constants) for term in terms if term.free_symbols]
    except _NoTreeError:
        return None
    constants.append(float(sum(term for term in terms if not term.free_symbols)))
    if not inner or not all(math.isfinite(value) for value in constants):
        return None
    return Form(plus(*inner, constant(len(constants) - 1)), tuple(constants))


def _normal(expression: sympy.Expr) -> sympy.Expr:
    """The same with factors taken out of sums in products, powers, logarithms and exponentials."""
    if not expression.args:
        return expression
    arguments = [_normal(argument) for argument in expression.args]
    if expression.is_Mul:
        return sympy.Mul(*(part for argument in arguments for part in _scaled(argument)))
    if expression.is_Pow:
        base, exponent = arguments
        if exponent.is_number:
            coefficient, rest = _scaled(base)
            if not exponent.is_integer:
                coefficient, rest = abs(coefficient), rest * sympy.sign(coefficient)
            return coefficient**exponent * rest**exponent
    if isinstance(expression, sympy.exp):
        offset, rest = arguments[0].as_coeff_Add()
        return sympy.exp(offset) * sympy.exp(rest)
    if isinstance(expression, sympy.log):
        coefficient, rest = _scaled(arguments[0])
        return sympy.log(abs(coefficient)) + sympy.log(rest * sympy.sign(coefficient))
    if isinstance(expression, (sympy.sin, sympy.cos)):
        offset, rest = arguments[0].as_coeff_Add()
        if not offset:
            return expression.func(rest)
        # A cosine with a phase is a sine with another, which is less than a quarter turn, the sign outside.
        turned = float(offset) + (math.pi / 2 if isinstance(expression, sympy.cos) else 0.0)
        halves = round(turned / math.pi)
        return (-1) ** halves * sympy.sin(rest + sympy.Float(turned - halves * math.pi))
    return expression.func(*arguments)


def _scaled(expression: sympy.Expr) -> tuple[sympy.Expr, sympy.Expr]:
    """(coefficient, rest): of a sum, the largest coefficient of an input; of others, their own."""
    if not expression.is_Add:
        coefficient, rest = expression.as_coeff_Mul()
        return coefficient, rest
    terms = [term.as_coeff_Mul() for term in sorted(expression.args, key=sympy.default_sort_key)]
    leading = max((c for c, rest in terms if rest.free_symbols), key=abs, default=sympy.Integer(1))
    # Divided term by term: the quotient of the largest is 1, exactly.
    return leading, sympy.Add(*(rest if c == leading else (c / leading) * rest for c, rest in terms))


class _NoTreeError(Exception):
    """An expression has an operation that trees do not have."""


def _tree(expression: sympy.Expr, order: dict[sympy.Symbol, int], constants: list[float]) -> Tree:
    """The tree of an expression, new constants put at the end of the list.

    Raises _NoTreeError.
    """

    def opened(value: sympy.Expr) -> Tree:
        constants.append(float(value))
        return constant(len(constants) - 1)

    if expression in order:
        return variable(order[expression])
    if expression.is_number:
        return opened(expression)
    if expression.is_Add:
        return plus(*(_tree(term, order, constants) for term in expression.args))
    if expression.is_Mul:
        coefficient, rest = expression.as_coeff_Mul()
        factors = [] if coefficient == 1 else [number(-1) if coefficient == -1 else opened(coefficient)]
        return times(*factors, *(_tree(factor, order, constants) for factor in sympy.Mul.make_args(rest)))
    if expression.is_Pow:
        base, exponent = expression.args
        if not exponent.is_Rational:
            raise _NoTreeError
        inner = _tree(base, order, constants)
        if abs(exponent) == sympy.Rational(1, 2):
            return ("sqrt", inner) if exponent > 0 else power(("sqrt", inner), -1)
        return power(inner, Fraction(int(exponent.p), int(exponent.q)) if exponent.q > 1 else int(exponent))
    name = expression.func.__name__.lower()
    if name not in FUNCTIONS:
        raise _NoTreeError
    return name, _tree(expression.args[0], order, constants)
