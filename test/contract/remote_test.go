package contract

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"

	clientapi "weft/clientapi/api"
	federationapi "weft/federationapi/api"
	"weft/internal/rpc"
	keyserver "weft/keyserver/api"
	roomserver "weft/roomserver/api"
	syncapi "weft/syncapi/api"
)

// loop carries a call to a process that is not there: it checks that the call is the one that was made, and sends all
// values through their encoding, both ways.
type loop struct {
	t       *testing.T
	rnd     *rand.Rand
	service string
	method  reflect.Method
	args    []any // that the caller passed
	results []any // that it is to get
	called  bool
}

var errTest = errors.New("the component's own error")

func (l *loop) Invoke(_ context.Context, c rpc.Call, args, results []any) error {
	l.called = true
	if c.Service != l.service || c.Method != l.method.Name {
		l.t.Errorf("%s.%s arrived as %s.%s", l.service, l.method.Name, c.Service, c.Method)
	}
	if !reflect.DeepEqual(args, l.args) {
		l.t.Errorf("%s: passed %+v, arrived %+v", l.method.Name, l.args, args)
	}
	arrived := make([]any, len(args))
	for i := range args {
		arrived[i] = reflect.New(l.method.Type.In(1 + i)).Interface()
	}
	travel(l.t, args, arrived)
	for i, a := range arrived {
		if got := reflect.ValueOf(a).Elem().Interface(); !reflect.DeepEqual(got, args[i]) {
			l.t.Errorf("%s: argument %d was %+v, is %+v after its way", l.method.Name, i+1, args[i], got)
		}
	}
	if len(results) != l.method.Type.NumOut()-1 {
		l.t.Fatalf("%s: %d results, want %d", l.method.Name, len(results), l.method.Type.NumOut()-1)
	}
	for i := range results {
		v := reflect.New(l.method.Type.Out(i)).Elem()
		fill(v, l.rnd, 0)
		l.results = append(l.results, v.Interface())
	}
	travel(l.t, l.results, results)
	return errTest
}

func travel(t *testing.T, values, into []any) {
	t.Helper()
	data, err := rpc.Marshal(values)
	if err != nil {
		t.Fatal(err)
	}
	if err := rpc.Unmarshal(data, into); err != nil {
		t.Fatal(err)
	}
}

// fill makes a value of every field, now and then an empty one.
func fill(v reflect.Value, rnd *rand.Rand, depth int) {
	empty := depth > 0 && rnd.IntN(5) == 0
	switch v.Kind() {
	case reflect.String:
		if !empty {
			v.SetString(fmt.Sprintf("@%d:exämple.org \x00<&>\u2028", rnd.Uint32()))
		}
	case reflect.Bool:
		v.SetBool(rnd.IntN(2) == 0)
	case reflect.Int, reflect.Int64, reflect.Int32:
		v.SetInt(rnd.Int64() >> rnd.IntN(64) * int64(1-2*rnd.IntN(2)))
	case reflect.Uint64, reflect.Uint32, reflect.Uint8:
		v.SetUint(uint64(rnd.Uint32()) & 0xff)
	case reflect.Struct:
		for i := range v.NumField() {
			if !v.Type().Field(i).IsExported() {
				panic(fmt.Sprintf("%s has a field that cannot travel", v.Type()))
			}
			fill(v.Field(i), rnd, depth+1)
		}
	case reflect.Pointer:
		if !empty {
			v.Set(reflect.New(v.Type().Elem()))
			fill(v.Elem(), rnd, depth+1)
		}
	case reflect.Slice:
		if empty {
			return
		}
		if v.Type() == reflect.TypeFor[json.RawMessage]() {
			v.SetBytes(fmt.Appendf(nil, `{ "b":%d, "a": "<é\u0000>"}`, rnd.Uint32()))
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), 1+rnd.IntN(3), 3))
		for i := range v.Len() {
			fill(v.Index(i), rnd, depth+1)
		}
	case reflect.Map:
		if empty {
			return
		}
		v.Set(reflect.MakeMap(v.Type()))
		for range 1 + rnd.IntN(3) {
			key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			fill(key, rnd, depth+1)
			fill(value, rnd, depth+1)
			v.SetMapIndex(key, value)
		}
	default:
		panic(fmt.Sprintf("%s cannot travel", v.Type()))
	}
}

// check calls every method of an interface with made-up values.
func check[I any](t *testing.T, service string, remote func(rpc.Caller) I, methods func(I) rpc.Methods) {
	t.Run(service, func(t *testing.T) {
		face := reflect.TypeFor[I]()
		if face.NumMethod() > 15 {
			t.Errorf("%d methods, at most 15 are good", face.NumMethod())
		}
		listed := methods(remote(nil))
		if len(listed) != face.NumMethod() {
			t.Errorf("%d methods are listed of %d", len(listed), face.NumMethod())
		}
		for i := range face.NumMethod() {
			if fn := listed[face.Method(i).Name]; fn == nil || reflect.TypeOf(fn) != face.Method(i).Type {
				t.Errorf("%s is listed as %T", face.Method(i).Name, fn)
			}
			for seed := range uint64(200) {
				l := &loop{t: t, rnd: rand.New(rand.NewPCG(seed, uint64(i))), service: service, method: face.Method(i)}
				in := []reflect.Value{reflect.ValueOf(t.Context())}
				for k := 1; k < l.method.Type.NumIn(); k++ {
					v := reflect.New(l.method.Type.In(k)).Elem()
					fill(v, l.rnd, 0)
					in, l.args = append(in, v), append(l.args, v.Interface())
				}
				out := reflect.ValueOf(remote(l)).MethodByName(l.method.Name).Call(in)
				if !l.called {
					t.Fatalf("%s went nowhere", l.method.Name)
				}
				for k, want := range l.results {
					if got := out[k].Interface(); !reflect.DeepEqual(got, want) {
						t.Fatalf("%s: result %d was %+v, is %+v after its way", l.method.Name, k+1, want, got)
					}
				}
				if err := out[len(out)-1].Interface(); err != errTest { //nolint:errorlint // that very one
					t.Fatalf("%s: error %v", l.method.Name, err)
				}
			}
		}
	})
}

func TestEverythingArrives(t *testing.T) {
	check(t, roomserver.RoomsService, func(c rpc.Caller) roomserver.Rooms { return roomserver.Remote{Caller: c} }, roomserver.RoomsMethods)
	check(t, roomserver.DirectoryService, func(c rpc.Caller) roomserver.Directory { return roomserver.Remote{Caller: c} }, roomserver.DirectoryMethods)
	check(t, roomserver.FederationService, func(c rpc.Caller) roomserver.Federation { return roomserver.Remote{Caller: c} }, roomserver.FederationMethods)
	check(t, keyserver.KeysService, func(c rpc.Caller) keyserver.Keys { return keyserver.Remote{Caller: c} }, keyserver.KeysMethods)
	check(t, keyserver.ToDeviceService, func(c rpc.Caller) keyserver.ToDevice { return keyserver.Remote{Caller: c} }, keyserver.ToDeviceMethods)
	check(t, keyserver.BackupService, func(c rpc.Caller) keyserver.Backup { return keyserver.Remote{Caller: c} }, keyserver.BackupMethods)
	check(t, clientapi.AccountsService, func(c rpc.Caller) clientapi.Accounts { return clientapi.Remote{Caller: c} }, clientapi.AccountsMethods)
	check(t, syncapi.SyncService, func(c rpc.Caller) syncapi.Sync { return syncapi.Remote{Caller: c} }, syncapi.SyncMethods)
	check(t, federationapi.OutboundService, func(c rpc.Caller) federationapi.Outbound { return federationapi.Remote{Caller: c} }, federationapi.OutboundMethods)
}
