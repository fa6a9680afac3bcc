package main

import (
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"weft/setup"
)

// addConfigFlags adds the flags of the configuration's options, generated from
// the same struct that parses the file.
func addConfigFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.String("config", "", "YAML configuration file")
	for _, o := range setup.Options() {
		switch {
		case o.Flag == "":
		case o.Type == "yes or no":
			f.Bool(o.Flag, o.Key == "rate_limits.enabled", o.Doc)
		case o.Type == "list":
			f.StringSlice(o.Flag, nil, o.Doc)
		default:
			f.String(o.Flag, "", o.Doc)
		}
	}
	f.Bool("federation-insecure", false, "Do not check the certificates of other servers (test networks only).")
	f.StringSlice("listen", nil, "HOST:PORT to serve all APIs on in plain HTTP; repeatable.")
	f.StringSlice("listen-tls", nil, "HOST:PORT to serve all APIs on in HTTPS; repeatable.")
	f.StringSlice("tls-cert", nil, "PEM file of the certificate chain for --listen-tls.")
	f.StringSlice("tls-key", nil, "PEM file of the certificate's private key for --listen-tls.")
}

// loadConfig reads the configuration from file, environment and the flags that
// were given.
func loadConfig(cmd *cobra.Command) (setup.Config, error) {
	s, err := sources(cmd)
	if err != nil {
		return setup.Config{}, err
	}
	return setup.Load(s)
}

// sources are the configuration's file, the environment and the flags that were given.
func sources(cmd *cobra.Command) (setup.Sources, error) {
	file, err := cmd.Flags().GetString("config")
	if err != nil {
		return setup.Sources{}, err
	}
	given := make(map[string][]string)
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if s, ok := f.Value.(pflag.SliceValue); ok {
			given[f.Name] = s.GetSlice()
			return
		}
		given[f.Name] = []string{f.Value.String()}
	})
	return setup.Sources{File: file, Environ: os.Environ(), Flags: given}, nil
}
