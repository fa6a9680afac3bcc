package setup

import (
	"encoding"
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

// Option is one key of the configuration, as the struct's tags describe it.
type Option struct {
	Key    string // "federation.ca_file"
	Env    string // "WEFT_FEDERATION_CA_FILE"
	Flag   string // "federation-ca", or empty
	Type   string // "text", "number", "yes or no", "duration", "size", "list"
	Doc    string
	Secret bool

	// index leads to the field within Config.
	index []int
}

// listenersKey is the one option that is no plain value; it has environment
// variables and flags of its own (listenerSettings).
const listenersKey = "listeners"

// Options lists all options in the struct's order, listeners excepted.
func Options() []Option {
	return walkOptions(reflect.TypeFor[Config](), "", nil)
}

func walkOptions(t reflect.Type, prefix string, index []int) []Option {
	var out []Option
	for i := range t.NumField() {
		f := t.Field(i)
		key, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		key = prefix + key
		at := append(append([]int{}, index...), i)
		if key == listenersKey {
			continue
		}
		if f.Type.Kind() == reflect.Struct {
			out = append(out, walkOptions(f.Type, key+".", at)...)
			continue
		}
		out = append(out, Option{
			Key: key, Env: "WEFT_" + strings.ToUpper(strings.ReplaceAll(key, ".", "_")), Flag: f.Tag.Get("flag"),
			Type: typeName(f.Type), Doc: f.Tag.Get("doc"), Secret: f.Tag.Get("secret") != "", index: at,
		})
	}
	return out
}

func typeName(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[Duration]():
		return "duration"
	case t == reflect.TypeFor[Bytes]():
		return "size"
	}
	switch t.Kind() {
	case reflect.Bool:
		return "yes or no"
	case reflect.Slice:
		return "list"
	case reflect.Int, reflect.Float64:
		return "number"
	default:
		return "text"
	}
}

// field gives the option's place in a configuration.
func (o Option) field(c *Config) reflect.Value {
	return reflect.ValueOf(c).Elem().FieldByIndex(o.index)
}

// set reads values, as a flag or an environment variable gives them, into the
// option. A list takes all values; anything else takes the last.
func (o Option) set(c *Config, values []string) error {
	f := o.field(c)
	if f.Kind() == reflect.Slice {
		list := []string{}
		for _, v := range values {
			for part := range strings.SplitSeq(v, ",") {
				if part = strings.TrimSpace(part); part != "" {
					list = append(list, part)
				}
			}
		}
		f.Set(reflect.ValueOf(list))
		return nil
	}
	v := values[len(values)-1]
	if u, ok := f.Addr().Interface().(encoding.TextUnmarshaler); ok {
		if err := u.UnmarshalText([]byte(v)); err != nil {
			return fmt.Errorf("%s: %w", o.Key, err)
		}
		return nil
	}
	switch f.Kind() {
	case reflect.String:
		f.SetString(v)
	case reflect.Bool:
		b, err := strconv.ParseBool(v)
		if err != nil {
			return fmt.Errorf("%s: %q is neither true nor false", o.Key, v)
		}
		f.SetBool(b)
	case reflect.Int:
		n, err := strconv.Atoi(v)
		if err != nil {
			return fmt.Errorf("%s: %q is no whole number", o.Key, v)
		}
		f.SetInt(int64(n))
	case reflect.Float64:
		n, err := strconv.ParseFloat(v, 64)
		if err != nil {
			return fmt.Errorf("%s: %q is no number", o.Key, v)
		}
		f.SetFloat(n)
	default:
		return fmt.Errorf("%s: options of type %s cannot be set from text", o.Key, f.Type())
	}
	return nil
}
