"""The operators that an exported program may call: functions of tensors and numbers, and control flow.

The list names operators, and nothing is inferred from a name. An operator that is not listed is refused: it may read or
write files, print, or set the state of the process.
"""

from __future__ import annotations

import torch


def _names(text: str, before: str = "", after: str = "") -> frozenset[str]:
    return frozenset(f"{before}{name}{after}" for name in text.split())


_ATEN = _names(
    """
    abs absolute acos acosh adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d
    adaptive_max_pool2d adaptive_max_pool3d add addbmm addcdiv addcmul addmm addmv addr affine_grid_generator alias all
    alpha_dropout amax amin aminmax angle any arange arccos arccosh arcsin arcsinh arctan arctan2 arctanh argmax argmin
    argsort argwhere as_strided asin asinh atan atan2 atanh atleast_1d atleast_2d atleast_3d avg_pool1d avg_pool2d
    avg_pool3d baddbmm bartlett_window batch_norm bernoulli bilinear bitwise_and bitwise_left_shift bitwise_not
    bitwise_or bitwise_right_shift bitwise_xor blackman_window block_diag bmm broadcast_tensors broadcast_to bucketize
    cartesian_prod cat cdist ceil celu chain_matmul channel_shuffle chunk clamp clamp_max clamp_min clip clone col2im
    column_stack complex concat concatenate conj conj_physical constant_pad_nd contiguous conv1d conv2d conv3d
    conv_depthwise3d conv_tbc conv_transpose1d conv_transpose2d conv_transpose3d convolution copy copysign cos cosh
    cosine_similarity count_nonzero cross cummax cummin cumprod cumsum deg2rad detach diag diag_embed diagflat diagonal
    diagonal_scatter diff digamma dist div divide dot dropout dsplit dstack einsum elu embedding empty empty_like eq
    erf erfc erfinv exp exp2 expand expand_as expm1 eye feature_alpha_dropout feature_dropout fill flatten flip fliplr
    flipud float_power floor floor_divide fmax fmin fmod frac frexp frobenius_norm full full_like gather ge gelu glu
    greater greater_equal grid_sampler grid_sampler_2d grid_sampler_3d group_norm gru gru_cell gt hamming_window
    hann_window hardshrink hardsigmoid hardswish hardtanh heaviside histc hsplit hstack hypot i0 igamma igammac im2col
    imag index index_add index_copy index_fill index_put index_reduce index_select inner instance_norm inverse isclose
    isfinite isin isinf isnan isneginf isposinf isreal istft item kaiser_window kron kthvalue layer_norm ldexp le
    leaky_relu lerp less less_equal lgamma lift_fresh lift_fresh_copy linear linspace log log10 log1p log2 log_sigmoid
    log_sigmoid_forward log_softmax logaddexp logaddexp2 logcumsumexp logical_and logical_not logical_or logical_xor
    logit logspace logsumexp lstm lstm_cell lt mT masked_fill masked_scatter masked_select matmul matrix_exp
    matrix_power max max_pool1d max_pool1d_with_indices max_pool2d max_pool2d_with_indices max_pool3d
    max_pool3d_with_indices max_unpool2d max_unpool3d maximum mean median meshgrid min minimum mish mm mode moveaxis
    movedim mse_loss msort mul multinomial multiply mv nan_to_num nanmean nanmedian nanquantile nansum narrow
    narrow_copy native_batch_norm native_channel_shuffle native_dropout native_group_norm native_layer_norm ne neg
    negative new_empty new_full new_ones new_zeros nextafter nonzero nonzero_static norm norm_except_dim normal
    not_equal nuclear_norm numel numpy_T one_hot ones ones_like outer pad pairwise_distance pdist permute permute_copy
    pinverse pixel_shuffle pixel_unshuffle polar positive pow prelu prod quantile rad2deg rand rand_like randint
    randint_like randn randn_like randperm ravel real reciprocal reflection_pad1d reflection_pad2d reflection_pad3d relu
    relu6 remainder renorm repeat repeat_interleave replication_pad1d replication_pad2d replication_pad3d reshape
    reshape_as resolve_conj resolve_neg rms_norm rnn_relu rnn_tanh roll rot90 round row_stack rrelu rsqrt rsub
    scalar_tensor scaled_dot_product_attention scatter scatter_add scatter_reduce searchsorted select select_copy
    select_scatter selu sgn sigmoid sign signbit silu sin sinc sinh slice slice_copy slice_scatter slow_conv3d
    slow_conv_dilated2d slow_conv_dilated3d slow_conv_transpose2d slow_conv_transpose3d smooth_l1_loss softmax softplus
    softshrink sort split split_copy split_with_sizes split_with_sizes_copy sqrt square squeeze squeeze_copy stack std
    std_mean stft sub subtract sum sum_to_size swapaxes swapdims sym_constrain_range sym_constrain_range_for_size
    sym_is_contiguous sym_numel sym_size sym_storage_offset sym_stride t take take_along_dim tan tanh tensor_split
    tensordot threshold tile to topk trace transpose transpose_copy trapezoid tril tril_indices triu triu_indices
    true_divide trunc type_as unbind unflatten unfold uniform unique_consecutive unique_dim unsafe_chunk unsafe_split
    unsafe_split_with_sizes unsqueeze unsqueeze_copy upsample_bicubic2d upsample_bilinear2d upsample_linear1d
    upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_trilinear3d vander var var_mean vdot view view_as
    view_as_complex view_as_real view_copy vsplit vstack where xlogy zero zeros zeros_like

    fft_fft fft_fft2 fft_fftfreq fft_fftn fft_fftshift fft_ifft fft_ifft2 fft_ifftn fft_ifftshift fft_irfft fft_irfft2
    fft_irfftn fft_rfft fft_rfft2 fft_rfftfreq fft_rfftn linalg_cholesky linalg_cross linalg_det linalg_eigh linalg_inv
    linalg_inv_ex linalg_matmul linalg_matrix_norm linalg_norm linalg_pinv linalg_qr linalg_solve linalg_svd
    linalg_vecdot linalg_vector_norm special_digamma special_entr special_erf special_erfc special_erfcx special_erfinv
    special_exp2 special_expit special_expm1 special_gammaln special_i0 special_i1 special_log1p special_log_ndtr
    special_log_softmax special_logit special_logsumexp special_ndtr special_round special_sinc special_softmax
    special_xlog1py special_xlogy

    _adaptive_avg_pool2d _adaptive_avg_pool3d _assert_async _assert_scalar _assert_tensor_metadata
    _batch_norm_impl_index _batch_norm_no_update _batch_norm_with_update _batch_norm_with_update_functional
    _cdist_forward _conj _convolution _convolution_mode _fft_c2c _fft_c2r _fft_r2c _functional_assert_async
    _functional_assert_scalar _functional_sym_constrain_range _functional_sym_constrain_range_for_size
    _local_scalar_dense _log_softmax _native_batch_norm_legit _native_batch_norm_legit_functional
    _native_batch_norm_legit_no_training _pdist_forward _prelu_kernel _safe_softmax
    _scaled_dot_product_attention_math _scaled_dot_product_efficient_attention _scaled_dot_product_flash_attention
    _scaled_dot_product_flash_attention_for_cpu _shape_as_tensor _softmax _stack _thnn_fused_gru_cell
    _thnn_fused_lstm_cell _to_copy _trilinear _unique2 _unsafe_index _unsafe_index_put _unsafe_view
    _upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_nearest_exact1d _upsample_nearest_exact2d
    _upsample_nearest_exact3d _weight_norm _weight_norm_interface
    """
)
_IN_PLACE = _names(
    """
    abs acos add addbmm addcdiv addcmul addmm alpha_dropout asin atan atan2 baddbmm bernoulli bitwise_and bitwise_not
    bitwise_or bitwise_xor ceil celu clamp clamp_max clamp_min clip copy copysign cos cosh cumprod cumsum detach div
    divide dropout elu eq erf erfc exp exp2 expm1 feature_alpha_dropout feature_dropout fill float_power floor
    floor_divide fmod frac ge gt hardsigmoid hardswish hardtanh index_add index_copy index_fill index_put index_reduce
    le leaky_relu lerp log log10 log1p log2 logical_and logical_not logical_or logical_xor logit lt masked_fill
    masked_scatter mish mul multiply nan_to_num ne neg negative normal pow reciprocal relu relu6 remainder round rrelu
    rsqrt scatter scatter_add scatter_reduce selu sgn sigmoid sign silu sin sinh sqrt square squeeze sub subtract t tan
    tanh threshold transpose tril triu true_divide trunc uniform unsqueeze xlogy zero
    """,
    after="_",
)
_PRIMS = _names(
    """
    abs acos acosh add amax amin asin asinh atan atan2 atanh bitwise_and bitwise_not bitwise_or bitwise_xor
    broadcast_in_dim cat ceil clone collapse collapse_view conj conj_physical convert_element_type cos cosh digamma div
    eq erf erfc exp exp2 expm1 fft_c2c fft_c2r fft_r2c fill floor fmax fmin fmod full full_like ge gt hypot iota
    isfinite le lgamma log log10 log1p log2 lt maximum minimum mul ne neg pow prod real imag reciprocal remainder
    reshape rev round rsqrt scalar_tensor shift_left shift_right_arithmetic sign signbit sin sinh split_dim sqrt squeeze
    sub sum tan tanh transpose trunc var view_of where xor_sum
    """
)
_TORCHVISION = _names("deform_conv2d nms ps_roi_align ps_roi_pool roi_align roi_pool")
_SPACES = {"aten": _ATEN | _IN_PLACE, "prims": _PRIMS, "torchvision": _TORCHVISION}

_RECURRENT = frozenset({"lstm", "gru", "rnn_tanh", "rnn_relu"})
"""listed for padded sequences alone, whose arguments :mod:`.recurrent` checks"""

_OTHER = (
    _names(
        "associative_scan cond map_impl scan while_loop wrap_with_autocast wrap_with_set_grad_enabled",
        before="torch.ops.higher_order.",
    )
    | _names(
        """
        _sym_acos _sym_asin _sym_atan _sym_cos _sym_cosh _sym_log2 _sym_sin _sym_sinh _sym_sqrt _sym_tan _sym_tanh
        sym_float sym_int sym_ite sym_max sym_min sym_not sym_sqrt sym_sum
        """,
        before="torch.",
    )
    | _names("ceil floor sqrt trunc", before="math.")
    | _names(
        """
        abs add and_ eq floordiv ge getitem gt inv invert le lshift lt mod mul ne neg not_ or_ pos pow rshift sub
        truediv xor
        """,
        before="_operator.",
    )
)


def is_listed(target: str) -> bool:
    """Whether an operator may be called.

    Args:
        target: as a program's description names it: ``torch.ops.aten.add.Tensor``, ``_operator.mul``.
    """
    if target in _OTHER:
        return True
    parts = target.split(".")
    if len(parts) != 5 or parts[:2] != ["torch", "ops"]:
        return False
    space, name, overload = parts[2:]
    if name not in _SPACES.get(space, ()):
        return False
    if space == "torchvision":
        import torchvision  # noqa: F401  registers its operators
    if name in _RECURRENT and overload != "input":
        return False
    packet = getattr(getattr(torch.ops, space), name, None)
    return packet is not None and overload in packet.overloads()
