package stateres

// heapOf is a binary heap whose smallest element is taken first.
type heapOf[T any] struct {
	list []T
	less func(a, b T) bool
}

func (h *heapOf[T]) len() int { return len(h.list) }

func (h *heapOf[T]) push(v T) {
	h.list = append(h.list, v)
	for i := len(h.list) - 1; i > 0; {
		parent := (i - 1) / 2
		if !h.less(h.list[i], h.list[parent]) {
			return
		}
		h.list[i], h.list[parent] = h.list[parent], h.list[i]
		i = parent
	}
}

func (h *heapOf[T]) pop() T {
	top := h.list[0]
	last := len(h.list) - 1
	h.list[0] = h.list[last]
	var zero T
	h.list[last] = zero
	h.list = h.list[:last]
	for i := 0; ; {
		child := 2*i + 1
		if child >= last {
			return top
		}
		if child+1 < last && h.less(h.list[child+1], h.list[child]) {
			child++
		}
		if !h.less(h.list[child], h.list[i]) {
			return top
		}
		h.list[i], h.list[child] = h.list[child], h.list[i]
		i = child
	}
}
