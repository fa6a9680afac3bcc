package rpc_test

import (
	"maps"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"weft/internal/rpc"
)

// counts gives what a router counted, by the name of the metric and the values of its labels.
func counts(t *testing.T, r *rpc.Router) func() map[string]int {
	t.Helper()
	reg := prometheus.NewRegistry()
	if err := r.Register(reg); err != nil {
		t.Fatal(err)
	}
	return func() map[string]int {
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		out := make(map[string]int)
		for _, f := range families {
			for _, m := range f.GetMetric() {
				name := f.GetName()
				for _, l := range m.GetLabel() {
					name += " " + l.GetValue()
				}
				out[name] = int(m.GetCounter().GetValue()) + int(m.GetHistogram().GetSampleCount())
			}
		}
		return out
	}
}

func TestCallsAreCounted(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld()
		a, _ := w.add("a", nil)
		front, _ := w.add("front", nil)
		got, here := counts(t, front), counts(t, a)
		s := remote{caller: front, key: "k"}
		where(t, s)
		where(t, s)
		where(t, remote{caller: a, key: "k"}) // stays in its process
		for _, kind := range []string{"none", "matrix", "plain", "plain"} {
			if err := s.Fail(t.Context(), kind); (err == nil) != (kind == "none") {
				t.Errorf("%s: %v", kind, err)
			}
		}
		w.change(func() { w.buses["a"].gone = true })
		if err := s.Fail(t.Context(), "none"); err == nil {
			t.Error("nobody is there")
		}
		all := got()
		if all["weft_rpc_calls_total part part.Service.Fail elsewhere"] == 0 {
			t.Errorf("it was asked before it was given up: %v", all)
		}
		delete(all, "weft_rpc_calls_total part part.Service.Fail elsewhere")
		want := map[string]int{
			"weft_rpc_calls_total part part.Service.Echo done":   2,
			"weft_rpc_calls_total part part.Service.Fail done":   2, // a refusal is an answer
			"weft_rpc_calls_total part part.Service.Fail failed": 2,
			"weft_rpc_calls_total part part.Service.Fail nobody": 1,
			"weft_rpc_call_seconds part":                         7,
		}
		if !maps.Equal(all, want) {
			t.Errorf("got %v, want %v", all, want)
		}
		if all := here(); len(all) != 0 {
			t.Errorf("calls within a process: %v", all)
		}
	})
}
