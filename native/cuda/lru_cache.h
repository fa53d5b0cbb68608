// A map of a few values that cost something to make. Beyond its limit it forgets the one whose last use is longest ago.
#pragma once
#include <cstddef>
#include <list>
#include <map>
#include <utility>

namespace vltune::cuda {

template <class Key, class Value> class LruCache {
 public:
  explicit LruCache(size_t most) : most_(most) {}
  LruCache(const LruCache&) = delete;
  LruCache& operator=(const LruCache&) = delete;

  // The key's value, now the latest used; nullptr if there is none. It stays in its place until `most` other keys were used.
  Value* find(const Key& key) {
    const auto found = places_.find(key);
    if (found == places_.end()) return nullptr;
    entries_.splice(entries_.begin(), entries_, found->second);
    return &entries_.front().second;
  }

  // For a key that find() did not find.
  Value& insert(const Key& key, Value value) {
    entries_.emplace_front(key, std::move(value));
    places_[key] = entries_.begin();
    if (entries_.size() > most_) {
      places_.erase(entries_.back().first);
      entries_.pop_back();
    }
    return entries_.front().second;
  }

 private:
  size_t most_;
  std::list<std::pair<Key, Value>> entries_;  // the latest used first
  std::map<Key, typename std::list<std::pair<Key, Value>>::iterator> places_;
};

}  // namespace vltune::cuda
