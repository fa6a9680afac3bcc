package rpc

import (
	"context"
	"fmt"
	"reflect"

	"weft/matrix/merr"
)

// Call says which call it is and whom it is for.
type Call struct {
	// Service is the interface, "roomserver.Rooms": the part before the dot is the component.
	Service, Method string
	// Key decides which process is asked first; empty: any.
	Key string
	// Again says that to carry the call out twice is the same as once, so that it may be repeated
	// where nobody knows whether it was carried out.
	Again bool
	// Often says that there are many of these calls and that they are short, so that a call may wait for the answer to those
	// before it, to go together with others.
	Often bool
}

// Caller carries calls out. args are what the method takes after its context, results are pointers to what it
// returns before its error.
type Caller interface {
	Invoke(ctx context.Context, c Call, args, results []any) error
}

// Do invokes a method that returns nothing but an error.
func Do(ctx context.Context, caller Caller, c Call, args ...any) error {
	return caller.Invoke(ctx, c, args, nil)
}

// Get invokes a method with one result.
func Get[A any](ctx context.Context, caller Caller, c Call, args ...any) (a A, err error) {
	err = caller.Invoke(ctx, c, args, []any{&a})
	return a, err
}

// Get2 invokes a method with two results.
func Get2[A, B any](ctx context.Context, caller Caller, c Call, args ...any) (a A, b B, err error) {
	err = caller.Invoke(ctx, c, args, []any{&a, &b})
	return a, b, err
}

// method is a method of a service that runs in this process.
type method struct {
	fn   reflect.Value
	args []reflect.Type // without the context
	outs []reflect.Type // without the error
}

var (
	contextType = reflect.TypeFor[context.Context]()
	errorType   = reflect.TypeFor[error]()
)

// Methods are the methods of a service by their names, as method values. They are listed because finding them by
// reflection makes the linker keep every method of every type: a fifth of the binary.
type Methods map[string]any

// known looks at what methods take and return. One that cannot be called is a mistake in the program, so it panics.
func (ms Methods) known(service string) map[string]method {
	all := make(map[string]method, len(ms))
	for name, fn := range ms {
		m := method{fn: reflect.ValueOf(fn)}
		typ := m.fn.Type()
		in, out := typ.NumIn(), typ.NumOut()
		if in == 0 || typ.In(0) != contextType || out == 0 || typ.Out(out-1) != errorType || typ.IsVariadic() {
			panic(fmt.Sprintf("rpc: %s.%s must take a context and return an error", service, name))
		}
		for k := 1; k < in; k++ {
			m.args = append(m.args, typ.In(k))
		}
		for k := range out - 1 {
			m.outs = append(m.outs, typ.Out(k))
		}
		all[name] = m
	}
	return all
}

// call runs the method with arguments as they are.
func (m method) call(ctx context.Context, args, results []any) error {
	if len(args) != len(m.args) || len(results) != len(m.outs) {
		return fmt.Errorf("rpc: %d arguments and %d results, want %d and %d", len(args), len(results), len(m.args), len(m.outs))
	}
	in := make([]reflect.Value, 1, len(args)+1)
	in[0] = reflect.ValueOf(ctx)
	for i, a := range args {
		in = append(in, reflect.ValueOf(&a).Elem().Elem())
		if in[i+1].Type() != m.args[i] {
			return fmt.Errorf("rpc: argument %d is %s, want %s", i+1, in[i+1].Type(), m.args[i])
		}
	}
	outs := m.fn.Call(in)
	for i, r := range results {
		reflect.ValueOf(r).Elem().Set(outs[i])
	}
	err, _ := outs[len(outs)-1].Interface().(error)
	return err
}

// answer runs the method with arguments as they travel, and makes a message of the results.
func (m method) answer(ctx context.Context, data []byte) ([]byte, error) {
	args := make([]any, len(m.args))
	for i, t := range m.args {
		args[i] = reflect.New(t).Interface()
	}
	if err := Unmarshal(data, args); err != nil {
		return nil, merr.New(500, "M_UNKNOWN", "arguments of a call between processes: %v", err)
	}
	for i := range args {
		args[i] = reflect.ValueOf(args[i]).Elem().Interface()
	}
	results := make([]any, len(m.outs))
	for i, t := range m.outs {
		results[i] = reflect.New(t).Interface()
	}
	if err := m.call(ctx, args, results); err != nil {
		return nil, err
	}
	return message(results)
}
