// A CUDA device that is not there: its memory is that of the CPU, which also computes.
//
// torch then dispatches, differentiates and compares devices as it does with a GPU: an operation on
// tensors of two devices fails, and so does one that waits for the device while a graph is recorded.
// Operations go to one function, which gives the CPU's kernels views of the same memory.

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/extension.h>
#include <torch/library.h>

#include <functional>
#include <set>
#include <unordered_map>

using c10::Device;
using c10::DeviceIndex;
using c10::DeviceType;
using c10::DispatchKey;
using c10::DispatchKeySet;
using c10::IValue;
using c10::Storage;
using c10::StorageImpl;
using c10::Stream;

namespace {

DeviceIndex num_devices = 1, current = 0;

Device device(DeviceIndex index) { return Device(DeviceType::CUDA, index < 0 ? current : index); }

// What torch asks of any device.

struct Guard final : c10::impl::DeviceGuardImplInterface {
  DeviceType type() const override { return DeviceType::CUDA; }
  Device exchangeDevice(Device next) const override {
    Device before = device(current);
    setDevice(next);
    return before;
  }
  Device getDevice() const override { return device(current); }
  void setDevice(Device next) const override { uncheckedSetDevice(next); }
  void uncheckedSetDevice(Device next) const noexcept override {
    if (next.has_index()) current = next.index();
  }
  Stream getStream(Device of) const noexcept override {
    return Stream(Stream::DEFAULT, device(of.index()));
  }
  Stream getDefaultStream(Device of) const override { return getStream(of); }
  Stream getNewStream(Device of, int) const override { return getStream(of); }
  Stream exchangeStream(Stream next) const noexcept override { return getStream(next.device()); }
  DeviceIndex deviceCount() const noexcept override { return num_devices; }
  void record(void**, const Stream&, DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, DeviceIndex) const noexcept override {}
  bool queryStream(const Stream&) const override { return true; }
  void synchronizeStream(const Stream&) const override {}
  void recordDataPtrOnStream(const c10::DataPtr&, const Stream&) const override {}
};
C10_REGISTER_GUARD_IMPL(CUDA, Guard)

struct Allocator final : c10::Allocator {
  c10::DataPtr allocate(size_t num_bytes) override {
    c10::DataPtr taken = c10::GetAllocator(DeviceType::CPU)->allocate(num_bytes);
    void* place = taken.get();
    auto free = taken.get_deleter();
    return {place, taken.release_context(), free, device(current)};
  }
  void copy_data(void* to, const void* from, size_t num_bytes) const override {
    std::memcpy(to, from, num_bytes);
  }
} allocator;
REGISTER_ALLOCATOR(DeviceType::CUDA, &allocator)

}  // namespace

namespace at {  // the registry looks for the hooks here

struct PretendedHooks final : CUDAHooksInterface {
  explicit PretendedHooks(CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return num_devices; }
  DeviceIndex getCurrentDevice() const override { return current; }
  int getNumGPUs() const override { return num_devices; }
  bool isPinnedPtr(const void*) const override { return true; }
  const Generator& getDefaultGenerator(DeviceIndex) const override {
    return detail::getDefaultCPUGenerator();
  }
};
C10_REGISTER_CLASS(CUDAHooksRegistry, CUDAHooks, PretendedHooks)

}  // namespace at

namespace {

// Recording: what a graph would hold, and what its recording must leave as it was.

struct Graph {
  std::vector<std::function<void()>> calls;
};
struct Before {
  at::Tensor bytes, copy;
};
std::shared_ptr<Graph> recording;  // null unless a graph is being recorded
std::vector<Before> written_while_recording;
std::set<const void*> known_while_recording;  // made or saved meanwhile

at::Tensor all_bytes(const Storage& storage) {
  auto size = static_cast<int64_t>(storage.nbytes());
  return at::from_blob(storage.unsafeGetStorageImpl()->mutable_data(), {size}, at::kByte);
}

void save_before_writing(const at::Tensor& tensor) {
  if (!tensor.defined() || !known_while_recording.insert(tensor.storage().data()).second) return;
  at::Tensor bytes = all_bytes(tensor.storage());
  written_while_recording.push_back({bytes, bytes.clone()});
}

// An operator's arguments as the CPU's kernels take them, and its results as they are returned.

template <typename Change>
IValue change_tensors(const IValue& value, Change change) {
  if (value.isTensor()) return change(value.toTensor());
  if (value.isTensorList()) {
    c10::List<at::Tensor> changed;
    for (const at::Tensor& one : value.toTensorVector()) changed.push_back(change(one));
    return changed;
  }
  if (value.isOptionalTensorList()) {
    c10::List<std::optional<at::Tensor>> changed;
    for (const std::optional<at::Tensor>& one : value.toOptionalTensorVector())
      changed.push_back(one ? std::optional<at::Tensor>(change(*one)) : std::nullopt);
    return changed;
  }
  return value;
}

at::Tensor like(const at::Tensor& tensor, Storage storage, DispatchKey key) {
  auto made = at::detail::make_tensor<c10::TensorImpl>(
      std::move(storage), DispatchKeySet(key), tensor.dtype());
  made.unsafeGetTensorImpl()->set_storage_offset(tensor.storage_offset());
  made.unsafeGetTensorImpl()->set_sizes_and_strides(tensor.sizes(), tensor.strides());
  return made;
}

Storage take_over(const at::Tensor& on_cpu, DeviceIndex index) {
  auto free = [](void* kept) { delete static_cast<at::Tensor*>(kept); };
  c10::DataPtr place(
      on_cpu.storage().mutable_data(), new at::Tensor(on_cpu), free, device(index));
  return {Storage::use_byte_size_t(), on_cpu.storage().nbytes(), std::move(place), &allocator, true};
}

class Views {
 public:
  bool on_device = false;  // whether any tensor is
  bool wants_device = false, wants_cpu = false;  // what an argument `device` asks for
  DeviceIndex index = -1;
  std::vector<at::Tensor> of_cpu;  // tensors of the CPU with a dimension: numbers may be mixed in

  IValue to_cpu(const IValue& value) {
    if (value.isDevice()) return choose(value.toDevice());
    if (value.isStorage() && value.toStorage().device_type() == DeviceType::CUDA)
      return view_storage(value.toStorage());
    return change_tensors(value, [this](const at::Tensor& one) { return view(one); });
  }

  IValue to_device(const IValue& value) {
    return change_tensors(value, [this](const at::Tensor& one) { return find(one); });
  }

  // A kernel may have resized what it was given.
  void resize_alike() {
    for (auto& [own, on_cpu] : pairs) {
      auto* impl = own.unsafeGetTensorImpl();
      bool is_same = own.storage().data() == on_cpu.storage().data();
      if (!is_same || own.storage().nbytes() != on_cpu.storage().nbytes())
        impl->set_storage_keep_dtype(take_over(on_cpu, own.device().index()));
      if (own.sizes() != on_cpu.sizes() || own.strides() != on_cpu.strides())
        impl->set_sizes_and_strides(on_cpu.sizes(), on_cpu.strides());
    }
  }

 private:
  std::vector<std::pair<at::Tensor, at::Tensor>> pairs;
  std::unordered_map<const StorageImpl*, Storage> of_own, back;

  IValue choose(Device asked) {
    wants_cpu |= asked.type() == DeviceType::CPU;
    if (asked.type() != DeviceType::CUDA) return asked;
    wants_device = true;
    index = device(asked.index()).index();
    return Device(DeviceType::CPU);
  }

  Storage view_storage(const Storage& own) {
    auto [found, is_new] = of_own.try_emplace(own.unsafeGetStorageImpl());
    if (is_new) {
      c10::DataPtr place(
          own.unsafeGetStorageImpl()->mutable_data(), nullptr, [](void*) {}, DeviceType::CPU);
      found->second = Storage(
          Storage::use_byte_size_t(), own.nbytes(), std::move(place),
          c10::GetAllocator(DeviceType::CPU), true);
      back[found->second.unsafeGetStorageImpl()] = own;
    }
    return found->second;
  }

  at::Tensor view(const at::Tensor& tensor) {
    if (!tensor.defined()) return tensor;
    if (tensor.device().type() != DeviceType::CUDA) {
      if (tensor.dim() > 0) of_cpu.push_back(tensor);
      return tensor;
    }
    TORCH_CHECK(!on_device || index == tensor.device().index(), "tensors of two GPUs");
    on_device = true;
    index = tensor.device().index();
    for (auto& [own, on_cpu] : pairs)
      if (own.is_same(tensor)) return on_cpu;
    at::Tensor seen = like(tensor, view_storage(tensor.storage()), DispatchKey::CPU);
    pairs.emplace_back(tensor, seen);
    return seen;
  }

  at::Tensor find(const at::Tensor& on_cpu) {
    if (!on_cpu.defined()) return on_cpu;
    for (auto& [own, seen] : pairs)
      if (seen.is_same(on_cpu)) return own;
    auto [found, is_new] = back.try_emplace(on_cpu.storage().unsafeGetStorageImpl());
    if (is_new) found->second = take_over(on_cpu, index);
    if (is_new && recording) known_while_recording.insert(on_cpu.storage().data());
    return like(on_cpu, found->second, DispatchKey::CUDA);
  }
};

const std::set<std::string> mixes = {"aten::copy_", "aten::_copy_from", "aten::index.Tensor",
                                     "aten::_index_put_impl_", "aten::index_put_"};
const std::set<std::string> waits = {"aten::_local_scalar_dense", "aten::nonzero", "aten::equal",
                                     "aten::masked_select", "aten::_unique2"};

void check_while_recording(const std::string& name, const Views& views) {
  bool copies = name == "aten::copy_" && !views.of_cpu.empty();
  TORCH_CHECK(
      !waits.count(name) && !copies,
      "CUDA error: operation not permitted when stream is capturing: ", name);
}

void run_again(const c10::OperatorHandle& op, const std::vector<IValue>& arguments,
               const std::vector<IValue>& results) {
  torch::jit::Stack stack(arguments);
  op.redispatchBoxed(DispatchKeySet(DispatchKey::CPU), &stack);
  at::NoGradGuard guard;
  for (size_t at = 0; at < stack.size(); ++at) {
    std::vector<at::Tensor> kept, made;
    change_tensors(results[at], [&](const at::Tensor& one) { return kept.push_back(one), one; });
    change_tensors(stack[at], [&](const at::Tensor& one) { return made.push_back(one), one; });
    for (size_t one = 0; one < kept.size(); ++one)
      if (kept[one].defined() && kept[one].storage().data() != made[one].storage().data())
        kept[one].copy_(made[one]);
  }
}

void compute(const c10::OperatorHandle& op, DispatchKeySet, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  std::string name = schema.name();
  if (!schema.overload_name().empty()) name += "." + schema.overload_name();
  auto first = stack->end() - static_cast<std::ptrdiff_t>(schema.arguments().size());
  Views views;
  std::vector<IValue> arguments, given(first, stack->end());
  stack->erase(first, stack->end());
  for (const IValue& one : given) arguments.push_back(views.to_cpu(one));
  if (views.index < 0) views.index = current;
  TORCH_CHECK(
      !views.on_device || views.of_cpu.empty() || mixes.count(name),
      name, ": expected all tensors on the same device, and one of ", views.of_cpu[0].sizes(),
      " is on the CPU");
  if (recording) {
    check_while_recording(name, views);
    for (size_t at = 0; at < arguments.size(); ++at) {
      const auto* alias = schema.arguments()[at].alias_info();
      if (alias == nullptr || !alias->isWrite()) continue;
      change_tensors(arguments[at], [](const at::Tensor& one) {
        return save_before_writing(one), one;
      });
    }
  }
  torch::jit::Stack results(arguments);
  op.redispatchBoxed(DispatchKeySet(DispatchKey::CPU), &results);
  if (recording)  // `given` keeps the memory
    recording->calls.push_back(
        [op, arguments, given, results] { run_again(op, arguments, results); });
  views.resize_alike();
  bool returns_own = !views.wants_cpu && (views.wants_device || views.on_device);
  for (const IValue& one : results) stack->push_back(returns_own ? views.to_device(one) : one);
}

at::Tensor make_empty(
    c10::SymIntArrayRef sizes, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
    std::optional<Device> asked, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  c10::DeviceGuard guard(device(asked ? asked->index() : -1));
  return at::detail::empty_generic(
      C10_AS_INTARRAYREF_SLOW(sizes), &allocator, DispatchKeySet(DispatchKey::CUDA),
      at::dtype_or_default(dtype), format);
}

at::Tensor make_empty_strided(
    c10::SymIntArrayRef sizes, c10::SymIntArrayRef strides, std::optional<at::ScalarType> dtype,
    std::optional<at::Layout>, std::optional<Device> asked, std::optional<bool>) {
  c10::DeviceGuard guard(device(asked ? asked->index() : -1));
  return at::detail::empty_strided_generic(
      C10_AS_INTARRAYREF_SLOW(sizes), C10_AS_INTARRAYREF_SLOW(strides), &allocator,
      DispatchKeySet(DispatchKey::CUDA), at::dtype_or_default(dtype));
}

// An operation that is written of others may still ask for a kernel of its tensors' device.
bool is_computed(const c10::OperatorHandle& op) {
  return op.hasKernelForDispatchKey(DispatchKey::CPU) ||
         op.hasKernelForDispatchKey(DispatchKey::CompositeExplicitAutograd) ||
         op.hasKernelForDispatchKey(DispatchKey::CompositeExplicitAutogradNonFunctional);
}

TORCH_LIBRARY_IMPL(_, CUDA, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&compute>());
}

TORCH_LIBRARY_IMPL(aten, CUDA, library) {
  for (const auto& name : c10::Dispatcher::singleton().getAllOpNames()) {
    if (name.name.rfind("aten::", 0) != 0) continue;
    if (name.name == "aten::empty" || name.name == "aten::empty_strided") continue;
    auto op = c10::Dispatcher::singleton().findOp(name);
    if (!op || !op->hasSchema() || !is_computed(*op)) continue;
    std::string full = name.name;
    if (!name.overload_name.empty()) full += "." + name.overload_name;
    if (op->hasKernelForDispatchKey(DispatchKey::CUDA)) continue;
    library.impl(full.c_str(), torch::CppFunction::makeFromBoxedFunction<&compute>());
  }
  library.impl("empty.memory_format", make_empty);
  library.impl("empty_strided", make_empty_strided);
}

void begin_recording() { recording = std::make_shared<Graph>(); }

std::shared_ptr<Graph> end_recording() {
  auto ended = std::move(recording);
  recording = nullptr;
  for (const Before& one : written_while_recording) one.bytes.copy_(one.copy);
  written_while_recording.clear();
  known_while_recording.clear();
  return ended;
}

// Runs what no operator of torch does, such as a kernel of Triton, and records it.
void run_and_record(const py::function& run, const std::vector<at::Tensor>& tensors) {
  auto graph = std::move(recording);
  recording = nullptr;
  for (const at::Tensor& one : tensors)
    if (graph) save_before_writing(one);
  try {
    run();
  } catch (...) {
    recording = graph;
    throw;
  }
  recording = graph;
  if (recording) recording->calls.push_back([run] { run(); });
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  py::class_<Graph, std::shared_ptr<Graph>>(module, "Graph").def("replay", [](const Graph& graph) {
    for (const auto& run : graph.calls) run();
  });
  module.def("set_num_devices", [](DeviceIndex number) { num_devices = number; });
  module.def("get_device", [] { return static_cast<int>(current); });
  module.def("set_device", [](DeviceIndex index) { current = index; });
  module.def("is_recording", [] { return recording != nullptr; });
  module.def("begin_recording", &begin_recording);
  module.def("end_recording", &end_recording);
  module.def("run_and_record", &run_and_record);
}
