"""What edgecnn has in C++ and CUDA: the TensorRT plugin for deformable convolution (``plugin/``)."""
