"""Eight float32 numbers at once in numba: the arithmetic of `kernels.py`.

A row of classes is too short for the loop that LLVM compiles for a length unknown in advance.
Written with these vectors, a row takes a few instructions. LLVM splits them for machines with
shorter vectors.

Numba's cache checks only the file of a kernel: after editing this file, delete `__pycache__`.
"""

import operator

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.extending import models
from numba.extending import overload
from numba.extending import register_model

from deeplab_tf import fast

LANES = 8

_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_INTEGERS = ir.VectorType(ir.IntType(32), LANES)


compiled = fast.compiled()
# For functions that are called per pixel: passing arrays would take as long as the work itself.
inlined = numba.njit(inline="always")


class Float8(types.Type):
    """The type of a vector of eight float32 numbers."""

    def __init__(self):
        super().__init__(name="Float8")


float8 = Float8()


@register_model(Float8)
class _Float8Model(models.PrimitiveModel):
    def __init__(self, manager, numba_type):
        super().__init__(manager, numba_type, _FLOATS)


@intrinsic
def load(typing_context, array, start):
    """Returns the vector at `array[start : start + 8]` of a flat float32 array."""

    def generate(context, builder, signature, arguments):
        return builder.load(_address(context, builder, signature, arguments), align=4)

    return float8(array, types.intp), generate


@intrinsic
def store(typing_context, array, start, vector):
    """Writes a vector to `array[start : start + 8]` of a flat float32 array."""

    def generate(context, builder, signature, arguments):
        address = _address(context, builder, signature, arguments)
        builder.store(arguments[2], address, align=4)
        return context.get_dummy_value()

    return types.none(array, types.intp, vector), generate


@intrinsic
def prefetch(typing_context, array, index):
    """Starts to bring `array[index]` into the caches for a later load."""

    def generate(context, builder, signature, arguments):
        pointer = ir.IntType(8).as_pointer()
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        call = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        address = builder.bitcast(_address(context, builder, signature, arguments), pointer)
        # For reading; kept in all caches; data, not instructions.
        builder.call(call, [address, number(0), number(3), number(1)])
        return context.get_dummy_value()

    return types.none(array, types.intp), generate


@intrinsic
def atomic_add(typing_context, array, index, number):
    """Adds to `array[index]`, an int64, in one step for all threads; returns what it was before."""

    def generate(context, builder, signature, arguments):
        array = cgutils.create_struct_proxy(signature.args[0])(context, builder, arguments[0])
        address = builder.gep(array.data, [arguments[1]])
        return builder.atomic_rmw("add", address, arguments[2], "seq_cst")

    return types.int64(array, types.intp, types.int64), generate


@intrinsic
def atomic_load(typing_context, array, index):
    """Returns `array[index]`, an int64, as other threads have left it."""

    def generate(context, builder, signature, arguments):
        array = cgutils.create_struct_proxy(signature.args[0])(context, builder, arguments[0])
        address = builder.gep(array.data, [arguments[1]])
        return builder.load_atomic(address, "seq_cst", align=8)

    return types.int64(array, types.intp), generate


@intrinsic
def fill(typing_context, number):
    """Returns the vector that holds one number eight times."""

    def generate(context, builder, signature, arguments):
        one = builder.insert_element(
            ir.Constant(_FLOATS, ir.Undefined), arguments[0], ir.Constant(ir.IntType(32), 0)
        )
        return builder.shuffle_vector(
            one, ir.Constant(_FLOATS, ir.Undefined), ir.Constant(_INTEGERS, [0] * LANES)
        )

    return float8(types.float32), generate


@intrinsic
def _maximum(typing_context, left, right):
    def generate(context, builder, signature, arguments):
        larger = builder.fcmp_ordered(">", *arguments)
        return builder.select(larger, *arguments)

    return float8(left, right), generate


@intrinsic
def _times_power_of_two(typing_context, vector, exponent):
    """Returns `vector * 2**n`; `exponent` is `_ROUNDER + n`, which holds n in its lowest bits."""

    def generate(context, builder, signature, arguments):
        bits, exponent_bits = (builder.bitcast(value, _INTEGERS) for value in arguments)
        shift = ir.Constant(_INTEGERS, [23] * LANES)
        return builder.bitcast(builder.add(bits, builder.shl(exponent_bits, shift)), _FLOATS)

    return float8(vector, exponent), generate


@intrinsic
def _zero_below(typing_context, vector, numbers, limit):
    """Returns the vector, with zeros where `numbers` are below `limit`."""

    def generate(context, builder, signature, arguments):
        values, compared, limits = arguments
        below = builder.fcmp_ordered("<", compared, limits)
        return builder.select(below, ir.Constant(_FLOATS, [0.0] * LANES), values)

    return float8(vector, numbers, limit), generate


def _lane(index: int):
    @intrinsic
    def lane(typing_context, vector):
        def generate(context, builder, signature, arguments):
            return builder.extract_element(arguments[0], ir.Constant(ir.IntType(32), index))

        return types.float32(vector), generate

    return lane


def _swap_lanes(distance: int):
    """Returns a function that swaps lanes whose numbers differ by `distance`, a power of two."""
    order = [lane ^ distance for lane in range(LANES)]

    @intrinsic
    def swapped(typing_context, vector):
        def generate(context, builder, signature, arguments):
            return builder.shuffle_vector(
                arguments[0], ir.Constant(_FLOATS, ir.Undefined), ir.Constant(_INTEGERS, order)
            )

        return float8(vector), generate

    return swapped


def _arithmetic(function, instruction: str):
    @intrinsic
    def operation(typing_context, left, right):
        def generate(context, builder, signature, arguments):
            # "contract" lets a product and a sum become one instruction.
            return getattr(builder, instruction)(*arguments, flags=["contract"])

        return float8(left, right), generate

    @overload(function)
    def overloaded(left, right):
        if left is float8 and right is float8:
            return lambda left, right: operation(left, right)


_arithmetic(operator.add, "fadd")
_arithmetic(operator.sub, "fsub")
_arithmetic(operator.mul, "fmul")

maximum = _maximum
_first_lane = _lane(0)
_swap_4, _swap_2, _swap_1 = _swap_lanes(4), _swap_lanes(2), _swap_lanes(1)

# Adding it to a float32 rounds to a whole number, which the lowest bits of the sum then hold.
_ROUNDER = np.float32(1.5 * 2**23)
_LOG2_E = np.float32(np.log2(np.e))
_LN2_HIGH = np.float32(0.693359375)  # so few bits that its product with a whole number is exact
_LN2_LOW = np.float32(np.log(2) - 0.693359375)
# exp(-64) is 1.6e-28. Smaller values would lead to subnormal numbers, which are slow on CPUs.
_LOWEST = np.float32(-64)
# (exp(r) - 1 - r) / r**2 for |r| <= ln(2) / 2, highest power first: Cephes' expf.
_C5, _C4, _C3, _C2, _C1, _C0 = (
    np.float32(c)
    for c in (1.9875692e-4, 1.3981999e-3, 8.3334519e-3, 4.1665796e-2, 1.6666665e-1, 0.5)
)


@compiled
def exp(x):
    """Returns exp(x) for x <= 0, with a relative error of 2e-7; 0 where x is below -64."""
    rounder = fill(_ROUNDER)
    exponent = x * fill(_LOG2_E) + rounder
    whole = exponent - rounder
    r = x - whole * fill(_LN2_HIGH) - whole * fill(_LN2_LOW)
    series = fill(_C5) * r + fill(_C4)
    series = series * r + fill(_C3)
    series = series * r + fill(_C2)
    series = series * r + fill(_C1)
    series = series * r + fill(_C0)
    result = series * (r * r) + r + fill(np.float32(1))
    return _zero_below(_times_power_of_two(result, exponent), x, fill(_LOWEST))


@compiled
def sum_of_lanes(vector):
    vector = vector + _swap_4(vector)
    vector = vector + _swap_2(vector)
    return _first_lane(vector + _swap_1(vector))


@compiled
def maximum_of_lanes(vector):
    vector = maximum(vector, _swap_4(vector))
    vector = maximum(vector, _swap_2(vector))
    return _first_lane(maximum(vector, _swap_1(vector)))


def _address(context, builder, signature, arguments):
    """Returns the address of `array[start]` as that of a vector."""
    array = cgutils.create_struct_proxy(signature.args[0])(context, builder, arguments[0])
    number = builder.gep(array.data, [arguments[1]])
    return builder.bitcast(number, _FLOATS.as_pointer())
