"""Datasets: downloads with checksums, a cache, arrays that live on the device."""

from .._public import check_arguments as _check_arguments
from ._cifar import cifar10 as cifar10
from ._dataset import Dataset as Dataset
from ._fetch import DataError as DataError, fetch as fetch
from ._idx import read_idx as read_idx
from ._images import digits as digits, fashion_mnist as fashion_mnist, mnist as mnist
from ._planar import circles as circles, spirals as spirals
from ._ptb import Corpus as Corpus, penn_treebank as penn_treebank
from ._tiny_imagenet import tiny_imagenet as tiny_imagenet
from ._table import read_table as read_table
from ._regression import Regression as Regression, boston_housing as boston_housing, diabetes as diabetes

_check_arguments(globals())
