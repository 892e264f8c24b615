# find_package(edgecnn REQUIRED COMPONENTS OpenVINO)   or TensorRT, or both, or none (the bundle reader and preprocessing alone)
#
#   edgecnn::edgecnn    the headers, nlohmann-json and zlib
#   edgecnn::openvino   and OpenVINO. OpenVINO_DIR says where it is; pip's wheel: python -c "import openvino.utils as u; print(u.get_cmake_path())"
#   edgecnn::tensorrt   and TensorRT 10 or 11 with CUDA's runtime. EDGECNN_TENSORRT_ROOT says where it is, if not in the usual places
#
# It works where the Python package has it (edgecnn native --cmake-dir) and where CMakeLists.txt beside it installs it.
include(CMakeFindDependencyMacro)
find_dependency(nlohmann_json 3.10)
find_dependency(ZLIB)
find_dependency(Threads)

if(NOT TARGET edgecnn::edgecnn)
  unset(_edgecnn_include)
  find_path(_edgecnn_include edgecnn/edgecnn.hpp NO_CACHE NO_DEFAULT_PATH NO_CMAKE_FIND_ROOT_PATH
    PATHS "${CMAKE_CURRENT_LIST_DIR}/../include" "${CMAKE_CURRENT_LIST_DIR}/../../../include")
  if(NOT _edgecnn_include)
    set(${CMAKE_FIND_PACKAGE_NAME}_FOUND FALSE)
    set(${CMAKE_FIND_PACKAGE_NAME}_NOT_FOUND_MESSAGE "edgecnn's headers are not beside ${CMAKE_CURRENT_LIST_DIR}")
    return()
  endif()
  add_library(edgecnn::edgecnn INTERFACE IMPORTED)
  target_include_directories(edgecnn::edgecnn INTERFACE "${_edgecnn_include}")
  target_compile_features(edgecnn::edgecnn INTERFACE cxx_std_17)
  target_link_libraries(edgecnn::edgecnn INTERFACE nlohmann_json::nlohmann_json ZLIB::ZLIB Threads::Threads)
endif()

if("OpenVINO" IN_LIST ${CMAKE_FIND_PACKAGE_NAME}_FIND_COMPONENTS)
  find_package(OpenVINO QUIET COMPONENTS Runtime)
  set(${CMAKE_FIND_PACKAGE_NAME}_OpenVINO_FOUND ${OpenVINO_FOUND})
  if(OpenVINO_FOUND AND NOT TARGET edgecnn::openvino)
    add_library(edgecnn::openvino INTERFACE IMPORTED)
    target_link_libraries(edgecnn::openvino INTERFACE edgecnn::edgecnn openvino::runtime)
    target_compile_definitions(edgecnn::openvino INTERFACE EDGECNN_WITH_OPENVINO)
  endif()
endif()

if("TensorRT" IN_LIST ${CMAKE_FIND_PACKAGE_NAME}_FIND_COMPONENTS)
  find_package(CUDAToolkit QUIET)
  set(_edgecnn_places "${EDGECNN_TENSORRT_ROOT}" "$ENV{EDGECNN_TENSORRT_ROOT}")
  find_path(EDGECNN_TENSORRT_INCLUDE NvInferRuntime.h HINTS ${_edgecnn_places}
    PATH_SUFFIXES include "include/${CMAKE_LIBRARY_ARCHITECTURE}" "${CMAKE_LIBRARY_ARCHITECTURE}")
  find_library(EDGECNN_TENSORRT_LIBRARY nvinfer HINTS ${_edgecnn_places} PATH_SUFFIXES lib "lib/${CMAKE_LIBRARY_ARCHITECTURE}")
  mark_as_advanced(EDGECNN_TENSORRT_INCLUDE EDGECNN_TENSORRT_LIBRARY)
  if(CUDAToolkit_FOUND AND EDGECNN_TENSORRT_INCLUDE AND EDGECNN_TENSORRT_LIBRARY)
    set(${CMAKE_FIND_PACKAGE_NAME}_TensorRT_FOUND TRUE)
    if(NOT TARGET edgecnn::tensorrt)
      add_library(edgecnn::tensorrt INTERFACE IMPORTED)
      target_include_directories(edgecnn::tensorrt INTERFACE "${EDGECNN_TENSORRT_INCLUDE}")
      target_link_libraries(edgecnn::tensorrt INTERFACE edgecnn::edgecnn "${EDGECNN_TENSORRT_LIBRARY}" CUDA::cudart)
      target_compile_definitions(edgecnn::tensorrt INTERFACE EDGECNN_WITH_TENSORRT)
    endif()
  endif()
endif()

foreach(component IN LISTS ${CMAKE_FIND_PACKAGE_NAME}_FIND_COMPONENTS)
  if(${CMAKE_FIND_PACKAGE_NAME}_FIND_REQUIRED_${component} AND NOT ${CMAKE_FIND_PACKAGE_NAME}_${component}_FOUND)
    set(${CMAKE_FIND_PACKAGE_NAME}_FOUND FALSE)
    set(${CMAKE_FIND_PACKAGE_NAME}_NOT_FOUND_MESSAGE
      "edgecnn's component ${component} needs what is not here: OpenVINO_DIR names OpenVINO's CMake folder; EDGECNN_TENSORRT_ROOT TensorRT's")
  endif()
endforeach()
