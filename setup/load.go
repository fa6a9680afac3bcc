package setup

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"gopkg.in/yaml.v3"
)

// maxConfigFile bounds a configuration file.
const maxConfigFile = 1 << 20

// Sources are where a configuration comes from: flags beat the environment,
// the environment beats the file, the file beats the defaults.
type Sources struct {
	// File is the path of a YAML file; empty: $WEFT_CONFIG, or none.
	File string
	// Environ is in the form of os.Environ.
	Environ []string
	// Flags holds the values of the flags that were given.
	Flags map[string][]string
}

// Load reads a configuration and validates it.
func Load(s Sources) (Config, error) { return LoadOver(Default(), s) }

// LoadOver is Load over other defaults.
func LoadOver(c Config, s Sources) (Config, error) {
	env := make(map[string]string)
	for _, kv := range s.Environ {
		if k, v, _ := strings.Cut(kv, "="); strings.HasPrefix(k, "WEFT_") {
			env[k] = v
		}
	}
	file := s.File
	if file == "" {
		file = env["WEFT_CONFIG"]
	}
	if file != "" {
		if err := c.readFile(file); err != nil {
			return c, err
		}
	}
	if err := c.readEnv(env); err != nil {
		return c, err
	}
	if err := c.readFlags(s.Flags); err != nil {
		return c, err
	}
	return c, c.Validate()
}

func (c *Config) readFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxConfigFile+1))
	err = errors.Join(err, f.Close())
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	if len(data) > maxConfigFile {
		return fmt.Errorf("configuration %s: larger than %d bytes", path, maxConfigFile)
	}
	if err := c.parse(data); err != nil {
		return fmt.Errorf("configuration %s: %w", path, err)
	}
	return nil
}

// parse reads YAML over the values that are there. Unknown keys are errors.
func (c *Config) parse(data []byte) error {
	d := yaml.NewDecoder(bytes.NewReader(data))
	d.KnownFields(true)
	if err := d.Decode(c); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := d.Decode(&struct{}{}); !errors.Is(err, io.EOF) {
		return errors.New("more than one YAML document")
	}
	return nil
}

// readEnv takes the WEFT_ variables. An unknown one is an error, since it is
// most likely misspelt. WEFT_VERIFY is a switch of the program, and WEFT_TEST_
// variables belong to tests.
func (c *Config) readEnv(env map[string]string) error {
	left := make(map[string]bool, len(env))
	for k := range env {
		left[k] = k != "WEFT_CONFIG" && k != "WEFT_VERIFY" && !strings.HasPrefix(k, "WEFT_TEST_")
	}
	for _, o := range Options() {
		v, ok := env[o.Env]
		if !ok {
			continue
		}
		left[o.Env] = false
		if err := o.set(c, []string{v}); err != nil {
			return fmt.Errorf("environment variable %s: %w", o.Env, err)
		}
	}
	var l listenerSettings
	for name, into := range l.byName() {
		key := "WEFT_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
		if v, ok := env[key]; ok {
			left[key] = false
			*into = splitList(v)
		}
	}
	if err := l.apply(c); err != nil {
		return fmt.Errorf("environment: %w", err)
	}
	for k, unknown := range left {
		if unknown {
			return fmt.Errorf("environment variable %s is no option; see weft config print", k)
		}
	}
	return nil
}

func splitList(v string) []string {
	var out []string
	for part := range strings.SplitSeq(v, ",") {
		if part = strings.TrimSpace(part); part != "" {
			out = append(out, part)
		}
	}
	return out
}

func (c *Config) readFlags(flags map[string][]string) error {
	for _, o := range Options() {
		if v := flags[o.Flag]; o.Flag != "" && len(v) > 0 {
			if err := o.set(c, v); err != nil {
				return fmt.Errorf("flag --%s: %w", o.Flag, err)
			}
		}
	}
	if v := flags["federation-insecure"]; len(v) > 0 {
		c.Federation.VerifyTLS = v[len(v)-1] != "true"
	}
	var l listenerSettings
	for name, into := range l.byName() {
		*into = flags[name]
	}
	if err := l.apply(c); err != nil {
		return fmt.Errorf("flags: %w", err)
	}
	return nil
}

// listenerSettings are the listeners as flags and the environment give them;
// any of them replaces the listeners of the file.
type listenerSettings struct {
	plain, tls, cert, key []string
}

// byName gives the flags' names; the variables' names follow from them.
func (l *listenerSettings) byName() map[string]*[]string {
	return map[string]*[]string{"listen": &l.plain, "listen-tls": &l.tls, "tls-cert": &l.cert, "tls-key": &l.key}
}

func (l *listenerSettings) apply(c *Config) error {
	if len(l.plain)+len(l.tls) == 0 {
		if len(l.cert)+len(l.key) > 0 {
			return errors.New("--tls-cert and --tls-key go with --listen-tls")
		}
		return nil
	}
	if len(l.tls) > 0 && (len(l.cert) != 1 || len(l.key) != 1) {
		return errors.New("--listen-tls needs one --tls-cert and one --tls-key")
	}
	c.Listeners = nil
	for _, a := range l.plain {
		c.Listeners = append(c.Listeners, Listener{Address: a})
	}
	for _, a := range l.tls {
		c.Listeners = append(c.Listeners, Listener{Address: a, TLS: TLS{Certificate: l.cert[0], Key: l.key[0]}})
	}
	return nil
}
